"""How often drafts hold, by their source: counts that forget, on top of a first opinion."""

from collections.abc import Iterable

__all__ = ["Acceptance"]

FORGET = 0.985
"""Weight of a trial against the next one of its source: some seventy are remembered. A text turns
from prose to code and back, but then its matches are of other lengths, and so other sources."""

PRIOR_TRIALS = 3.0
"""Trials that the first opinion is worth."""

PRIOR = 0.5
"""Of a source that is not listed."""

PRIORS = {
    "lookup:2": 0.15,
    "lookup:3": 0.25,
    "lookup:4": 0.35,
    "lookup:6": 0.45,
    "lookup:8": 0.55,
    "lookup:12": 0.65,
    "lookup:16": 0.75,
    "lookup:24": 0.8,
    "lookup:32": 0.85,
    "forced": 0.999,
}
"""The first opinion. Short matches are mostly chance, long ones mostly a copy under way."""

RATE_MAX = 0.999
"""Nothing is certain, and (1 - rate) divides."""

SOURCES_MAX = 64
"""Sources remembered: names come from our own drafters, which have about ten."""


class Acceptance:
    """Per source, the chance that a drafted token holds if those before it did.

    Of one answer, or shared by the answers of one model: then what one learns serves the next.
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, float]] = {}
        """Source to (trials, successes), both forgetting."""

    def rate(self, source: str) -> float:
        """In (0, 1)."""
        trials, held = self._counts.get(source, (0.0, 0.0))
        prior = PRIORS.get(source, PRIOR)
        return min((held + prior * PRIOR_TRIALS) / (trials + PRIOR_TRIALS), RATE_MAX)

    def alive(self, sources: Iterable[str]) -> float:
        """The chance that all of the drafted tokens of these sources hold."""
        chance = 1.0
        for source in sources:
            chance *= self.rate(source)
        return chance

    def note(self, source: str, *, held: bool) -> None:
        """One drafted token was put to the test; those behind a wrong one never are."""
        if source not in self._counts and len(self._counts) >= SOURCES_MAX:
            self._counts.pop(next(iter(self._counts)))
        trials, successes = self._counts.get(source, (0.0, 0.0))
        self._counts[source] = (FORGET * trials + 1, FORGET * successes + held)
