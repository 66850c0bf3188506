"""A STEP of the wire as an item for the engine."""

import numpy as np

from node.engine.base import Output, StepItem
from node.engine.wire import from_payload
from protocol.frame import Open, Step

__all__ = ["step_item"]


def step_item(step: Step, sequence_id: int, opened: Open, *, samples: bool) -> StepItem:
    """`samples`: whether this hop ends an open route, and so draws tokens."""
    hidden = tokens = None
    if step.dtype is None:
        tokens = np.frombuffer(step.payload, dtype="<i4").astype(np.int32, copy=False)
    else:
        hidden = from_payload(
            step.payload, step.dtype, count=step.count, hidden_size=step.hidden_size
        )
    return StepItem(
        sequence_id=sequence_id,
        position=step.position,
        count=step.count,
        wanted=step.wanted if opened.is_last else step.count,
        output=Output.TOKENS if samples else Output.HIDDEN,
        wire_dtype=opened.wire_dtype,
        tokens=tokens,
        hidden=hidden,
    )
