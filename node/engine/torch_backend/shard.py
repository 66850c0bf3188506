"""Loading: a transformers model with the layers of one span, and nothing of the others in memory.

The family's own class is subclassed so that layers outside the span become Identity while the
model is still on the meta device, and `from_pretrained` then reads a private view of the
directory: links to the needed weight files and an index that names only the needed tensors. The
layer list keeps its length, so every layer index stays global.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
from transformers.utils.logging import disable_progress_bar

from node.engine.base import ComputeDtype, ShardSpec
from node.engine.errors import ModelNotFound, ModelUnsupported, ShardMismatch
from node.engine.sampler import Logits
from node.engine.torch_backend.attention import ATTENTION_NAME, PackedStep, register_attention
from node.engine.torch_backend.families import refuse_unserved
from node.engine.torch_backend.fused import FUSED_FAMILIES, FusedStack
from node.engine.torch_backend.prepack import LinearMaker, held_bytes, prepack_linears
from node.engine.validation import validate_spec
from node.engine.weights import (
    INDEX_NAME,
    SINGLE_NAME,
    layer_of,
    read_config,
    read_weight_map,
)
from protocol.model import ENDS

__all__ = ["FamilyStack", "Shard", "load_shard"]

TORCH_DTYPE = {ComputeDtype.FP32: torch.float32, ComputeDtype.BF16: torch.bfloat16}


class FamilyStack(nn.Module):
    """A span's layers as their family wrote them; each knows its global index."""

    def __init__(self, layers: Sequence[nn.Module], rotary: nn.Module, maker: LinearMaker) -> None:
        super().__init__()
        self._rotary = rotary
        self._layers = nn.ModuleList(layers)
        prepack_linears(self._layers, maker)

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        packed_step: PackedStep,
        layers: slice,
    ) -> torch.Tensor:
        """Run packed rows (N, hidden_size) at positions (N,) int64 through those of its layers."""
        rows = hidden.unsqueeze(0)
        position_ids = positions.unsqueeze(0)
        position_embeddings = self._rotary(rows, position_ids=position_ids)
        for layer in list(self._layers)[layers]:
            rows = layer(
                rows,
                attention_mask=None,
                position_ids=position_ids,
                position_embeddings=position_embeddings,
                packed_step=packed_step,
            )
        return rows[0]


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A loaded shard: the parts of the cut model that the engine calls."""

    family: str
    config: Any
    """The transformers config of the whole model."""
    dtype: torch.dtype
    embedding: nn.Module | None
    """Token ids (N,) to (N, hidden_size)."""
    stack: FamilyStack | FusedStack | None
    """The span's layers; None where the span is empty."""
    norm: nn.Module | None
    head: nn.Module | None
    weight_bytes: int

    @property
    def head_dim(self) -> int:
        config = self.config
        stated = getattr(config, "head_dim", None)
        return int(stated or config.hidden_size // config.num_attention_heads)

    def logits(self, hidden: torch.Tensor) -> Logits:
        """Final norm and LM head: (N, hidden_size) to (N, vocabulary) float32."""
        assert self.norm is not None
        assert self.head is not None
        logits: Logits = self.head(self.norm(hidden)).float().numpy()
        return logits


def load_shard(spec: ShardSpec) -> Shard:
    """Read the shard's weights. Raises ModelNotFound, ModelUnsupported or ShardMismatch.

    Sets the process's torch thread count, which is torch's own global setting.
    """
    if not spec.directory.is_dir():
        raise ModelNotFound(f"There is no directory '{spec.directory}'.")
    family = refuse_unserved(read_config(spec.directory))
    torch.set_num_threads(spec.threads)
    register_attention()
    disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(
            spec.directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a stranger's config: whatever it breaks, it is unsupported
        raise ModelUnsupported(f"The {family} config is not valid: {error}") from error
    validate_spec(spec, config.num_hidden_layers)
    return _take_parts(spec, family, _load_model(spec, config))


def _take_parts(spec: ShardSpec, family: str, model: Any) -> Shard:
    """The shard out of a loaded model, its linears packed; the model is not used again."""
    base, dtype = model.base_model, TORCH_DTYPE[spec.compute_dtype]
    maker = LinearMaker(dtype, held_bytes(model), spec.spare_bytes)
    layers = list(base.layers[spec.span.start : spec.span.end])
    stack: FamilyStack | FusedStack | None = None
    if family in FUSED_FAMILIES and layers:
        stack = FusedStack(family, layers, base.rotary_emb, maker)
    elif layers:
        stack = FamilyStack(layers, base.rotary_emb, maker)
    embedding = base.embed_tokens if spec.embeds else None
    norm = base.norm if spec.has_head else None
    head = None
    if spec.has_head:
        head = maker.make([model.lm_head.weight], [model.lm_head.bias])
    parts = nn.ModuleList(part for part in (embedding, stack, norm, head) if part is not None)
    return Shard(
        family=family,
        config=model.config,
        dtype=dtype,
        embedding=embedding,
        stack=stack,
        norm=norm,
        head=head,
        weight_bytes=held_bytes(parts),
    )


def _load_model(spec: ShardSpec, config: Any) -> Any:
    shard_class = _cut_class(spec, config)
    with _weights_view(spec, tied=bool(config.tie_word_embeddings)) as view:
        try:
            model, report = shard_class.from_pretrained(
                view,
                config=config,
                attn_implementation=ATTENTION_NAME,
                dtype=TORCH_DTYPE[spec.compute_dtype],
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise ShardMismatch(f"The weights could not be read: {error}") from error
    # Unexpected keys are silenced in the cut class, so this is the only guard.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ShardMismatch(f"{len(missing)} tensors are missing, '{missing[0]}' among them.")
    return model.eval().requires_grad_(False)


def _cut_class(spec: ShardSpec, config: Any) -> Any:
    """The family's class, whose instances hold only what the spec asks for."""
    family_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    span = spec.span
    keeps_embedding = spec.embeds or (spec.has_head and config.tie_word_embeddings)

    def cut(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        family_class.__init__(self, config, *args, **kwargs)
        base = self.base_model
        for index in range(len(base.layers)):
            if not span.start <= index < span.end:
                base.layers[index] = nn.Identity()
        if not spec.has_head:
            base.norm = nn.Identity()
            self.lm_head = nn.Identity()
        if not keeps_embedding:
            base.embed_tokens = nn.Identity()
        if not (spec.has_head and config.tie_word_embeddings):
            self._tied_weights_keys = {}
            self.all_tied_weights_keys = {}

    return type(
        family_class.__name__,
        (family_class,),
        {
            "__init__": cut,
            "__module__": family_class.__module__,
            "__qualname__": family_class.__qualname__,
            "_keys_to_ignore_on_load_unexpected": [".*"],
        },
    )


@contextlib.contextmanager
def _weights_view(spec: ShardSpec, *, tied: bool) -> Iterator[Path]:
    """A temporary directory that shows from_pretrained only the tensors of this shard."""
    directory = spec.directory.resolve()
    with tempfile.TemporaryDirectory(prefix="piecework-shard-") as name:
        view = Path(name)
        (view / "config.json").symlink_to(directory / "config.json")
        weight_map = read_weight_map(directory)
        if weight_map is None:
            files = {SINGLE_NAME}
        else:
            needed = {
                key: file for key, file in weight_map.items() if _is_needed(key, spec, tied=tied)
            }
            files = set(needed.values())
            content = {"metadata": {}, "weight_map": needed}
            (view / INDEX_NAME).write_text(json.dumps(content))
        for file in files:
            if not (directory / file).is_file():
                raise ShardMismatch(f"The weight file '{file}' is missing in '{directory}'.")
            (view / file).symlink_to(directory / file)
        yield view


def _is_needed(key: str, spec: ShardSpec, *, tied: bool) -> bool:
    layer = layer_of(key)
    if layer != ENDS:
        return spec.span.start <= layer < spec.span.end
    if "embed_tokens" in key:
        return spec.embeds or (spec.has_head and tied)
    return spec.has_head
