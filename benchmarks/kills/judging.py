"""What became of an answer, measured and compared. Pure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.kills.channel import Message

__all__ = ["Expected", "Verdict", "judge", "ordinary_first_s", "quantile"]


@dataclass(frozen=True, slots=True)
class Expected:
    """The same answer of the unsplit model."""

    digest: str
    tokens: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer. Seconds throughout."""

    complete: bool
    identical: bool
    hit: bool
    """The fault fell while the answer ran."""
    error: str | None
    opening_s: float | None
    """From the request to an open route; None where none was opened."""
    stall_s: float | None
    """The longest gap that ended after the fault, less the ordinary one."""
    epochs: int
    """Repairs: the highest epoch in which a hop was opened."""
    tokens: int
    session: str | None


def judge(
    told: Message,
    expected: Expected,
    *,
    fault_at_s: float | None,
    epochs: int,
    first_s: float,
) -> Verdict:
    """`told`: the head's last word on an answer, `first_s`: what its first token takes undisturbed.

    Times are those of the machine's monotonic clock, the same in all processes.
    """
    times_s: Sequence[float] = told["times_s"]
    complete = told["error"] is None and told["tokens"] == expected.tokens
    hit = fault_at_s is not None and len(times_s) > 1 and fault_at_s < times_s[-1]
    return Verdict(
        complete=complete,
        identical=complete and told["digest"] == expected.digest,
        hit=hit or (fault_at_s is not None and not complete),
        error=told["error"],
        opening_s=times_s[1] - times_s[0] if len(times_s) > 1 else None,
        stall_s=_stall_s(times_s[1:], fault_at_s, first_s) if complete and hit else None,
        epochs=epochs,
        tokens=told["tokens"],
        session=told["session"],
    )


def ordinary_first_s(told: Message) -> float | None:
    """What the first token of an answer took."""
    times_s = told["times_s"]
    return times_s[2] - times_s[1] if len(times_s) > 2 else None


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value below which that share lies; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _stall_s(times_s: Sequence[float], fault_at_s: float | None, first_s: float) -> float:
    """`times_s`: the route open, then every token."""
    gaps = [later - sooner for sooner, later in itertools.pairwise(times_s)]
    ordinary_s = median(gaps[1:]) if len(gaps) > 1 else 0.0
    longest = 0.0
    for index, gap_s in enumerate(gaps):
        if fault_at_s is not None and times_s[index + 1] >= fault_at_s:
            longest = max(longest, gap_s - (first_s if index == 0 else ordinary_s))
    return longest
