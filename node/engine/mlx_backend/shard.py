"""Loading: an mlx_lm model with the layers of one span, and nothing of the others in memory.

MLX arrays are lazy, so the whole model may be built: what is cut before anything is evaluated
never takes memory. The layer list keeps its length, so every layer index stays global.
"""

from collections.abc import Iterable
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
from node.engine.mlx_backend.cache import LayerCache
from node.engine.mlx_backend.config import ModelConfig, normalize
from node.engine.validation import validate_spec
from node.engine.weights import SINGLE_NAME, layer_of, read_config, read_weight_map
from protocol.model import ENDS
from protocol.route import Span

__all__ = ["MLX_DTYPE", "Shard", "load_shard"]

MLX_DTYPE = {ComputeDtype.FP32: mx.float32, ComputeDtype.BF16: mx.bfloat16}


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A loaded shard. Arrays are (1, rows, hidden_size) in the compute dtype, and lazy."""

    config: ModelConfig
    spec: ShardSpec
    model: Any
    """mlx_lm's causal model, cut: layers outside the span are None."""
    weight_bytes: int

    def embed(self, tokens: npt.NDArray[np.int32]) -> mx.array:
        """Token ids (rows,) to their rows."""
        return self.model.model.embed_tokens(mx.array(tokens)[None])

    def make_caches(self, span: Span, capacity_tokens: int) -> list[LayerCache]:
        """One a layer of a sequence's span."""
        return [LayerCache(capacity_tokens) for _ in range(len(span))]

    def run(self, rows: mx.array, span: Span, caches: list[LayerCache]) -> mx.array:
        """One sequence's rows through its span's layers; appends to every cache."""
        layers = self.model.model.layers[span.start : span.end]
        windows = self.config.windows[span.start : span.end]
        masks: dict[int | None, mx.array | str | None] = {}
        count = rows.shape[1]
        for layer, window, cache in zip(layers, windows, caches, strict=True):
            if window not in masks:
                masks[window] = cache.mask(count, window)
            rows = layer(rows, masks[window], cache)
        return rows

    def logits(self, rows: mx.array) -> mx.array:
        """Final norm and LM head: (1, rows, vocabulary) in fp32."""
        normed = self.model.model.norm(rows)
        if self.config.is_tied:
            return self.model.model.embed_tokens.as_linear(normed).astype(mx.float32)
        return self.model.lm_head(normed).astype(mx.float32)


def load_shard(spec: ShardSpec) -> Shard:
    """Read the shard's weights. Raises ModelNotFound, ModelUnsupported or ShardMismatch."""
    if not spec.directory.is_dir():
        raise ModelNotFound(f"There is no directory '{spec.directory}'.")
    config = normalize(read_config(spec.directory))
    validate_spec(spec, config.layers)
    model = _build(config)
    _cut(model, spec, config)
    weights = _read_weights(spec, config)
    if hasattr(model, "sanitize"):
        weights = model.sanitize(weights)
    expected = {name for name, _ in _parameters(model)}
    # load_weights would pass over a missing tensor and leave its random start in place.
    if missing := sorted(expected - set(weights)):
        raise ShardMismatch(f"{len(missing)} tensors are missing, '{missing[0]}' among them.")
    dtype = MLX_DTYPE[spec.compute_dtype]
    kept = [(name, array.astype(dtype)) for name, array in weights.items() if name in expected]
    _check_shapes(model, dict(kept))
    model.load_weights(kept, strict=False)
    model.eval()
    arrays = [array for _, array in _parameters(model)]
    try:
        mx.eval(arrays)
    except (RuntimeError, ValueError) as error:  # lazy files are read only now
        raise ShardMismatch(f"The weights could not be read: {error}") from error
    return Shard(config, spec, model, sum(array.nbytes for array in arrays))


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
