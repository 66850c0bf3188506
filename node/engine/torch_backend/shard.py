"""Loading: a transformers model with the layers of one span, and nothing of the others in memory.

cut.py says what is left out; here the rest is loaded, made ready for packed steps, and taken apart
into what the engine calls. The layer list keeps its length, so every layer index stays global.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from node.engine.base import ComputeDtype, ShardSpec
from node.engine.errors import ModelNotFound, ModelUnsupported, ShardMismatch
from node.engine.sampler import Logits
from node.engine.torch_backend.attention import PackedStep, attention_name, register_attention
from node.engine.torch_backend.cut import cut_class, weights_view
from node.engine.torch_backend.device import resolve_device
from node.engine.torch_backend.ends import FinishLogits, finish_logits_of, scale_embedding
from node.engine.torch_backend.experts import pack_experts
from node.engine.torch_backend.families import (
    LATENT_FAMILIES,
    context_of,
    refuse_unserved,
    unpack_stored,
)
from node.engine.torch_backend.fused import FUSED_FAMILIES, FusedStack
from node.engine.torch_backend.heap import addresses_of, own_weights
from node.engine.torch_backend.latent import keep_latents
from node.engine.torch_backend.linear import held_bytes
from node.engine.torch_backend.prepack import LinearMaker, prepack_linears
from node.engine.validation import validate_spec
from node.engine.weights import read_config

__all__ = ["FamilyStack", "Shard", "load_shard"]

TORCH_DTYPE = {
    ComputeDtype.FP32: torch.float32,
    ComputeDtype.BF16: torch.bfloat16,
    ComputeDtype.INT8: torch.bfloat16,
    ComputeDtype.INT4: torch.bfloat16,
}
"""What rows, norms and KV are in; int8 and int4 are dtypes of weights alone."""


class FamilyStack(nn.Module):
    """A span's layers as their family wrote them; each knows its global index."""

    def __init__(self, layers: Sequence[nn.Module], rotary: nn.Module, maker: LinearMaker) -> None:
        super().__init__()
        self._rotary = rotary
        # Some families turn their sliding layers otherwise than their full ones.
        has_kinds = "layer_type" in inspect.signature(inspect.unwrap(rotary.forward)).parameters
        self._kinds = [layer.self_attn.layer_type if has_kinds else None for layer in layers]
        self._layers = nn.ModuleList(layers)
        pack_experts(self._layers, maker)
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
        kinds = self._kinds[layers]
        turns = {
            kind: self._rotary(rows, position_ids, **({"layer_type": kind} if kind else {}))
            for kind in dict.fromkeys(kinds)
        }
        for layer, kind in zip(list(self._layers)[layers], kinds, strict=True):
            rows = layer(
                rows,
                attention_mask=None,
                position_ids=position_ids,
                position_embeddings=turns[kind],
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
    finish_logits: FinishLogits
    weight_bytes: int
    device: torch.device
    """Where weights, rows and KV lie."""

    @property
    def kv_heads(self) -> int:
        """Of what KV holds of a row: a latent stands for all heads."""
        return 1 if self.family in LATENT_FAMILIES else int(self.config.num_key_value_heads)

    @property
    def key_dim(self) -> int:
        """Numbers a KV head keeps of a row's key, or of its latent."""
        if self.family in LATENT_FAMILIES:
            return int(self.config.kv_lora_rank)
        return self._head_dim

    @property
    def value_dim(self) -> int:
        """Numbers a KV head keeps of a row's value, or of its rotated key beside the latent."""
        if self.family in LATENT_FAMILIES:
            return int(self.config.qk_rope_head_dim)
        return self._head_dim

    @property
    def context_tokens(self) -> int:
        return context_of(self.config)

    @property
    def _head_dim(self) -> int:
        config = self.config
        stated = getattr(config, "head_dim", None)
        return int(stated or config.hidden_size // config.num_attention_heads)

    def logits(self, hidden: torch.Tensor) -> Logits:
        """Final norm and LM head: (N, hidden_size) to (N, vocabulary) float32."""
        assert self.norm is not None
        assert self.head is not None
        logits: Logits = self.finish_logits(self.head(self.norm(hidden)).float()).cpu().numpy()
        return logits


def load_shard(spec: ShardSpec) -> Shard:
    """Read the shard's weights. Raises ModelNotFound, ModelUnsupported, ShardMismatch, or
    BackendMissing for a device that is not here.

    Sets the process's torch thread count, which is torch's own global setting.
    """
    if not spec.directory.is_dir():
        raise ModelNotFound(f"There is no directory '{spec.directory}'.")
    family = refuse_unserved(read_config(spec.directory))
    device = resolve_device(spec.device, spec.compute_dtype)
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
    unpack_stored(config)
    model = _load_model(spec, family, config).to(device)
    return _take_parts(spec, family, model, device)


def _take_parts(spec: ShardSpec, family: str, model: Any, device: torch.device) -> Shard:
    """The shard out of a loaded model, its linears packed; the model is not used again."""
    base, dtype = model.base_model, TORCH_DTYPE[spec.compute_dtype]
    loaded = addresses_of(model)
    maker = LinearMaker(
        spec.compute_dtype,
        weight_bytes=held_bytes(model),
        spare_bytes=spec.spare_bytes,
        device=device,
    )
    layers = list(base.layers[spec.span.start : spec.span.end])
    if family in LATENT_FAMILIES:
        for layer in layers:
            keep_latents(layer.self_attn)
    stack: FamilyStack | FusedStack | None = None
    if family in FUSED_FAMILIES and layers:
        stack = FusedStack(family, layers, base.rotary_emb, maker)
    elif layers:
        stack = FamilyStack(layers, base.rotary_emb, maker)
    embedding = None
    if spec.embeds:
        embedding = scale_embedding(family, model.config, base.embed_tokens)
    norm = base.norm if spec.has_head else None
    head = None
    if spec.has_head:
        head = maker.make([model.lm_head.weight], [model.lm_head.bias])
    parts = nn.ModuleList(part for part in (embedding, stack, norm, head) if part is not None)
    own_weights(parts, loaded)
    return Shard(
        family=family,
        config=model.config,
        dtype=dtype,
        embedding=embedding,
        stack=stack,
        norm=norm,
        head=head,
        finish_logits=finish_logits_of(family, model.config),
        weight_bytes=held_bytes(parts),
        device=device,
    )


def _load_model(spec: ShardSpec, family: str, config: Any) -> Any:
    shard_class = cut_class(spec, config)
    with weights_view(spec, tied=bool(config.tie_word_embeddings)) as view:
        try:
            model, report = shard_class.from_pretrained(
                view,
                config=config,
                attn_implementation=attention_name(family, config),
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
