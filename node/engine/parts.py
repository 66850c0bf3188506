"""Cutting a step's rows into parts that run in several batches, and joining what they yield."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from node.engine.base import Activation, StepItem, StepResult

__all__ = ["cut", "join"]


def cut(item: StepItem, first_row: int, rows: int) -> StepItem:
    """The item's rows [first_row, first_row + rows) as an item of their own; arrays are views.

    The wanted rows are an item's last ones, and a part's are those of them that lie in it: its
    own last ones again. The item's shapes must have been checked.
    """
    end = first_row + rows
    if rows == item.count:
        return item
    return StepItem(
        item.sequence_id,
        item.position + first_row,
        count=rows,
        wanted=max(0, end - max(first_row, item.count - item.wanted)),
        output=item.output,
        wire_dtype=item.wire_dtype,
        tokens=None if item.tokens is None else item.tokens[first_row:end],
        hidden=None if item.hidden is None else item.hidden[first_row:end],
    )


def join(results: Sequence[StepResult]) -> StepResult:
    """What the whole item would have yielded, from its parts' results in their order."""
    tokens = [result.tokens for result in results if result.tokens is not None]
    if tokens:
        return StepResult(tokens=np.concatenate(tokens))
    # one dtype in all parts: that of the item's wire dtype
    hidden = [result.hidden for result in results if result.hidden is not None]
    return StepResult(hidden=cast("Activation", np.concatenate(hidden)))
