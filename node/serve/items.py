"""Rows of the wire as items for the engine."""

from collections.abc import Sequence

import numpy as np

from node.engine.base import Output, StepItem
from node.engine.wire import from_payload
from protocol.frame import Open, Replay, Rows, Step

__all__ = ["replay_item", "step_item"]


def step_item(step: Step, sequence_id: int, opened: Open, *, samples: bool) -> StepItem:
    """`samples`: whether this hop ends an open route, and so draws tokens."""
    return _item(
        step, step.payload, step.count, sequence_id, opened,
        wanted=step.wanted if opened.is_last else step.count,
        output=Output.TOKENS if samples else Output.HIDDEN,
    )  # fmt: skip


def replay_item(replays: Sequence[Replay], sequence_id: int, opened: Open) -> StepItem:
    """Replays that follow one another, as one step: the last hop yields nothing of them."""
    count = sum(replay.count for replay in replays)
    payload = b"".join(replay.payload for replay in replays)
    return _item(
        replays[0], payload, count, sequence_id, opened,
        wanted=0 if opened.is_last else count, output=Output.HIDDEN,
    )  # fmt: skip


def _item(
    first: Rows,
    payload: bytes,
    count: int,
    sequence_id: int,
    opened: Open,
    *,
    wanted: int,
    output: Output,
) -> StepItem:
    hidden = tokens = None
    if first.dtype is None:
        tokens = np.frombuffer(payload, dtype="<i4").astype(np.int32, copy=False)
    else:
        hidden = from_payload(payload, first.dtype, count=count, hidden_size=first.hidden_size)
    return StepItem(
        sequence_id=sequence_id,
        position=first.position,
        count=count,
        wanted=wanted,
        output=output,
        wire_dtype=opened.wire_dtype,
        tokens=tokens,
        hidden=hidden,
    )
