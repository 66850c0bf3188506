"""Loading: an mlx_lm model with the layers of one span, and nothing of the others in memory.

MLX arrays are lazy, so the whole model may be built: what is cut before anything is evaluated
never takes memory. The layer list keeps its length, so every layer index stays global.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from node.engine.base import ComputeDtype, ShardSpec
from node.engine.errors import ModelNotFound, ModelUnsupported, ShardMismatch
from node.engine.mlx_backend.config import ModelConfig, normalize
from node.engine.mlx_backend.device import choose_device
from node.engine.mlx_backend.families import SERVED
from node.engine.mlx_backend.kv import KVGroup, KVShape
from node.engine.mlx_backend.quantize import quantize
from node.engine.mlx_backend.tensors import adapt, is_kept_exact
from node.engine.validation import validate_spec
from node.engine.weights import SINGLE_NAME, layer_of, read_config, read_weight_map
from protocol.model import ENDS
from protocol.route import Span

__all__ = ["Shard", "load_shard"]

MLX_DTYPE = {
    ComputeDtype.FP32: mx.float32,
    ComputeDtype.BF16: mx.bfloat16,
    ComputeDtype.INT8: mx.bfloat16,
    ComputeDtype.INT4: mx.bfloat16,
}
"""What rows, norms and KV are in; int8 and int4 are dtypes of weights alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A loaded shard. Arrays are (lanes, rows, hidden_size) in `dtype`, and lazy."""

    config: ModelConfig
    spec: ShardSpec
    model: Any
    """mlx_lm's causal model, cut: layers outside the span are None."""
    device: mx.Device
    """Where all of it is computed; loading and steps run inside `mx.stream(device)`."""
    weight_bytes: int

    @property
    def dtype(self) -> mx.Dtype:
        return MLX_DTYPE[self.spec.compute_dtype]

    @property
    def kv_shape(self) -> KVShape:
        config = self.config
        return KVShape(config.kv_heads, config.key_dim, config.value_dim, self.dtype)

    def embed(self, tokens: npt.NDArray[np.int32]) -> mx.array:
        """Token ids (rows,) to (rows, hidden_size)."""
        rows = self.model.model.embed_tokens(mx.array(tokens))
        scale = self.config.embed_scale
        return rows if scale is None else rows * mx.array(scale, rows.dtype)

    def run(self, rows: mx.array, span: Span, group: KVGroup, counts: Sequence[int]) -> mx.array:
        """The rows of a group's sequences through their span's layers.

        `counts`: each lane's own rows, the others are padding. Every sequence has them afterwards.
        """
        family = SERVED[self.config.family]
        layers = self.model.model.layers[span.start : span.end]
        windows = self.config.windows[span.start : span.end]
        step = group.begin(counts)
        masks = {
            window: step.mask(
                window, by_array=family.masks_by_array, folds_groups=family.folds_groups
            )
            for window in set(windows)
        }
        for layer, window, kv in zip(layers, windows, group.layers, strict=True):
            rows = layer(rows, masks[window], kv)
        group.end(counts)
        return rows

    def logits(self, rows: mx.array) -> mx.array:
        """Final norm and LM head: (..., hidden_size) to (..., vocabulary) in fp32."""
        normed = self.model.model.norm(rows)
        head = self.model.model.embed_tokens.as_linear if self.config.is_tied else None
        logits = (head or self.model.lm_head)(normed).astype(mx.float32)
        cap = self.config.logit_cap
        return logits if cap is None else mx.tanh(logits / cap) * cap


def load_shard(spec: ShardSpec) -> Shard:
    """Read the shard's weights.

    Raises ModelNotFound, ModelUnsupported, ShardMismatch, and BackendMissing for the device.
    """
    if not spec.directory.is_dir():
        raise ModelNotFound(f"There is no directory '{spec.directory}'.")
    config = normalize(read_config(spec.directory))
    validate_spec(spec, config.layers)
    device = choose_device(spec.device)
    with mx.stream(device):
        model = _build(config)
        _cut(model, spec, config)
        _fill(model, spec, config)
        quantize(model, spec.compute_dtype)
        model.eval()
        arrays = [array for _, array in _parameters(model)]
        try:
            mx.eval(arrays)
        except (RuntimeError, ValueError) as error:  # lazy files are read only now
            raise ShardMismatch(f"The weights could not be read: {error}") from error
    return Shard(config, spec, model, device, sum(array.nbytes for array in arrays))


def _fill(model: Any, spec: ShardSpec, config: ModelConfig) -> None:
    """Put the stored tensors, lazy, in the places that are left."""
    weights = adapt(_read_weights(spec, config), config)
    expected = {name for name, _ in _parameters(model)}
    # load_weights would pass over a missing tensor and leave its random start in place.
    if missing := sorted(expected - set(weights)):
        raise ShardMismatch(f"{len(missing)} tensors are missing, '{missing[0]}' among them.")
    dtype = MLX_DTYPE[spec.compute_dtype]
    kept = {
        name: array.astype(mx.float32 if is_kept_exact(name) else dtype)
        for name, array in weights.items()
        if name in expected
    }
    _check_shapes(model, kept)
    model.load_weights(list(kept.items()), strict=False)


def _build(config: ModelConfig) -> Any:
    try:
        model_class, arguments_class = _get_classes(config=dict(config.fields))
        return model_class(arguments_class.from_dict(dict(config.fields)))
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ModelUnsupported(f"The {config.family} config is not valid: {error}") from error


def _cut(model: Any, spec: ShardSpec, config: ModelConfig) -> None:
    """Take out what the shard does not hold, while it is still nothing but a plan."""
    base = model.model
    for index in range(len(base.layers)):
        if not spec.span.start <= index < spec.span.end:
            base.layers[index] = None
    if not (spec.embeds or (spec.has_head and config.is_tied)):
        base.pop("embed_tokens")
    if not spec.has_head:
        base.pop("norm")
    if not spec.has_head or config.is_tied:
        model.pop("lm_head", None)


def _parameters(model: Any) -> Iterable[tuple[str, mx.array]]:
    """Name and array of every parameter; places of cut layers hold none."""
    flat = tree_flatten(model.parameters())
    return [(name, array) for name, array in flat if isinstance(array, mx.array)]


def _check_shapes(model: Any, weights: dict[str, mx.array]) -> None:
    for name, parameter in _parameters(model):
        if weights[name].shape != parameter.shape:
            raise ShardMismatch(
                f"'{name}' has shape {weights[name].shape}; the config asks for {parameter.shape}."
            )


def _read_weights(spec: ShardSpec, config: ModelConfig) -> dict[str, mx.array]:
    """The tensors of this shard, lazy; only the files that hold some of them are opened."""
    weight_map = read_weight_map(spec.directory)
    if weight_map is None:
        files = {SINGLE_NAME}
    else:
        files = {file for name, file in weight_map.items() if _is_needed(name, spec, config)}
    weights: dict[str, mx.array] = {}
    for file in sorted(files):
        loaded = _load_file(spec.directory / file)
        weights |= {name: array for name, array in loaded.items() if _is_needed(name, spec, config)}
    return weights


def _load_file(path: Path) -> dict[str, mx.array]:
    if not path.is_file():
        raise ShardMismatch(f"The weight file '{path.name}' is missing in '{path.parent}'.")
    try:
        return mx.load(str(path))
    except (RuntimeError, ValueError) as error:
        raise ShardMismatch(f"'{path.name}' could not be read: {error}") from error


def _is_needed(name: str, spec: ShardSpec, config: ModelConfig) -> bool:
    layer = layer_of(name)
    if layer != ENDS:
        return spec.span.start <= layer < spec.span.end
    if "embed_tokens" in name:
        return spec.embeds or (spec.has_head and config.is_tied)
    return spec.has_head
