"""Checks that every engine makes before it computes: does the shard fit, does the item fit."""

import numpy as np

from node.engine.base import (
    EngineInfo,
    Output,
    ShardSpec,
    StepItem,
    wire_array_dtype,
    wire_array_shape,
)
from node.engine.errors import ShardMismatch, StepInvalid
from node.engine.wire import is_sound
from protocol.limits import STEP_TOKENS_MAX
from protocol.route import Span

__all__ = ["find_fault", "find_shape_fault", "sequence_span", "validate_spec"]


def validate_spec(spec: ShardSpec, layers: int) -> None:
    """Refuse a span outside the model, and ends that the span does not reach."""
    if spec.span.end > layers:
        raise ShardMismatch(f"The span {spec.span} passes the model's {layers} layers.")
    if len(spec.span) == 0:
        if not (spec.embeds or spec.has_head):
            raise ShardMismatch("An empty span without ends is nothing to load.")
        return
    if spec.embeds and spec.span.start != 0:
        raise ShardMismatch(f"The span {spec.span} embeds but does not begin at layer 0.")
    if spec.has_head and spec.span.end != layers:
        raise ShardMismatch(f"The span {spec.span} has the head but ends before layer {layers}.")


def find_shape_fault(item: StepItem, hidden_size: int) -> StepInvalid | None:
    """What is wrong with the item by itself: its numbers, its array's shape and dtype."""
    if not 0 < item.count <= STEP_TOKENS_MAX or not 0 <= item.wanted <= item.count:
        return StepInvalid(f"An item of {item.count} rows, {item.wanted} wanted, is not a step.")
    if item.position < 0:
        return StepInvalid(f"Position {item.position} is before the first.")
    if (item.tokens is None) == (item.hidden is None):
        return StepInvalid("An item brings either tokens or hidden states.")
    if item.tokens is not None:
        fits = item.tokens.shape == (item.count,) and item.tokens.dtype == np.int32
        return None if fits else StepInvalid(f"{item.count} token ids (int32) were expected.")
    assert item.hidden is not None
    shape = wire_array_shape(item.count, hidden_size, item.wire_dtype)
    dtype = np.dtype(wire_array_dtype(item.wire_dtype))
    if item.hidden.shape != shape or item.hidden.dtype != dtype:
        return StepInvalid(f"Hidden states of shape {shape} in {item.wire_dtype} were expected.")
    return None


def find_fault(
    item: StepItem,
    spec: ShardSpec,
    info: EngineInfo,
    *,
    length: int,
    capacity: int,
    has_sampling: bool,
) -> StepInvalid | None:
    """What is wrong with the item on this shard, for a sequence of `length` rows.

    A shard without layers keeps no rows, so there any position within the capacity will do.
    """
    fault = find_shape_fault(item, info.hidden_size)
    if fault is not None:
        return fault
    if len(spec.span) and item.position != length:
        return StepInvalid(f"The sequence has {length} rows, but the step is at {item.position}.")
    if item.position + item.count > capacity:
        return StepInvalid(f"The step ends past the sequence's capacity of {capacity} tokens.")
    if item.tokens is not None:
        if not spec.embeds:
            return StepInvalid("This shard has no embedding; it takes hidden states.")
        if item.tokens.min() < 0 or item.tokens.max() >= info.vocabulary_size:
            return StepInvalid(f"A token id is outside [0, {info.vocabulary_size}).")
    # One NaN would spread to every row after it, and to the tokens that are sampled.
    if item.hidden is not None and not is_sound(item.hidden, item.wire_dtype, info.hidden_size):
        return StepInvalid("The hidden states hold NaN or infinity, or a scale nobody sends.")
    if item.output is Output.TOKENS and not (spec.has_head and has_sampling):
        return StepInvalid("Tokens need a shard with the head and a sequence opened to sample.")
    return None


def sequence_span(span: Span | None, shard: Span) -> Span:
    """The layers a sequence runs through: all of the shard's unless it names fewer."""
    if span is None:
        return shard
    if not shard.contains(span) or (len(shard) and not len(span)):
        raise StepInvalid(f"Layers {span} do not lie within this shard's {shard}.")
    return span
