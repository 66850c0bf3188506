"""Which sequences of a batch go through the layers together. Pure: no mlx, no arrays.

One pass over several sequences pads twice: to the largest row count (a decode beside a verify) and
to the longest sequence (keys and values lie in one array). Both are bounded here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BLOCK_ROWS", "Lane", "plan_groups", "rounded_rows"]

BLOCK_ROWS = 64
"""KV memory is taken for so many rows at once; growing copies, so one step in 64 pays for it."""

ROWS_MAX = 16
"""An item of more rows fills the machine by itself: a prefill chunk goes alone."""

PADDING_MAX = 2
"""A group computes at most so many times the rows its items bring."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What grouping needs to know of an item and its sequence."""

    length: int
    """Rows that the sequence has."""
    count: int
    """Rows that the item adds."""
    capacity_tokens: int


def plan_groups(lanes: Sequence[Lane]) -> list[list[int]]:
    """Indexes of `lanes`, each in one group; a group is one pass.

    A group's keys and values never take more memory than its sequences have reserved, so the KV
    budget holds whatever is grouped with what.
    """
    groups: list[list[int]] = []
    order = sorted(range(len(lanes)), key=lambda i: (lanes[i].count, lanes[i].length, i))
    for index in order:
        joined = [*groups[-1], index] if groups else [index]
        if groups and _may_join([lanes[i] for i in joined]):
            groups[-1] = joined
        else:
            groups.append([index])
    return groups


def rounded_rows(rows: int) -> int:
    """The rows that memory is taken for."""
    return -(-rows // BLOCK_ROWS) * BLOCK_ROWS


def _may_join(lanes: Sequence[Lane]) -> bool:
    rows = max(lane.count for lane in lanes)
    if rows > ROWS_MAX or rows * len(lanes) > PADDING_MAX * sum(lane.count for lane in lanes):
        return False
    held = len(lanes) * rounded_rows(max(lane.length for lane in lanes) + rows)
    return held <= sum(rounded_rows(lane.capacity_tokens) for lane in lanes)
