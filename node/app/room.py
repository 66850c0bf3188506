"""How much of a model this machine can hold, from its memory and the model's sizes."""

from node.app.shard import LoadedModel
from node.engine.base import ComputeDtype
from node.hardware import OVERHEAD, layers_that_fit, memory_for_layers, row_element_bytes
from protocol.machine import Room
from protocol.model import ENDS, ModelManifest
from protocol.route import Span

__all__ = ["room_for", "spare_bytes"]


def room_for(model: LoadedModel, memory_bytes: int, dtype: ComputeDtype, kv_tokens: int) -> Room:
    """Layers that fit into `memory_bytes` with their KV, and beside the ends."""
    embedding, head = _end_bytes(model, dtype)

    def fitting(ends_bytes: int) -> int:
        return layers_that_fit(
            memory_bytes - ends_bytes,
            model.layer_sizes,
            stored_element_bytes=model.stored_element_bytes,
            dtype=dtype,
            kv_bytes=model.kv_bytes_per_token_layer(dtype),
            kv_tokens=kv_tokens,
        )

    return Room(fitting(0), fitting(max(embedding, head)), fitting(embedding + head))


def spare_bytes(
    model: LoadedModel, span: Span, memory_bytes: int, dtype: ComputeDtype, kv_tokens: int
) -> int:
    """What is left of the memory that was given, once a span, its KV and its ends are in."""
    embedding, head = _end_bytes(model, dtype)
    needed = memory_for_layers(
        model.layer_sizes[span.start : span.end],
        stored_element_bytes=model.stored_element_bytes,
        dtype=dtype,
        kv_bytes=model.kv_bytes_per_token_layer(dtype),
        kv_tokens=kv_tokens,
    )
    needed += embedding if span.start == 0 else 0
    needed += head if span.end == model.manifest.layers else 0
    return max(0, memory_bytes - needed)


def _end_bytes(model: LoadedModel, dtype: ComputeDtype) -> tuple[int, int]:
    """Memory of the embedding, and of final norm and LM head; tied ones are held at both ends.

    Counted in the dtype of activations, as embeddings are held: too much for a quantized head.
    """
    scale = row_element_bytes(dtype) / model.stored_element_bytes * OVERHEAD
    embedding, rest = _stored_end_bytes(model.manifest)
    is_tied = rest < embedding  # a head has as many rows as the embedding, a norm but one
    head = rest + embedding if is_tied else rest
    return int(embedding * scale), int(head * scale)


def _stored_end_bytes(manifest: ModelManifest) -> tuple[int, int]:
    ends = [tensor for tensor in manifest.tensors if tensor.layer == ENDS]
    embedding = sum(tensor.size_bytes for tensor in ends if "embed" in tensor.name)
    return embedding, sum(tensor.size_bytes for tensor in ends) - embedding
