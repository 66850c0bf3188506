"""How much to draft, whether to go on drafting before the verdict, and when to let hops loop.

Pure policy of one session, fed with what steps took and which drafts held. With acceptance α, a
step of base a and slope b, and drafts that keep the session waiting w a token,

    tokens per second with k drafted   (1 - α^(k+1)) / (1 - α) / (a + b(k+1) + w k)

and k is what makes that highest, or 0 unless it gains GAIN_MIN. Tokens are worth sending behind
those whose verdict is not back while the chance p that all before them hold, times the trip they
save, is above what they keep the slowest hop from doing: p a > busy. Such a draft goes in halves:
the second follows the first at once, so that the first is not held up by the bytes of the second,
and by the time its verdict is back the second is nearly round.
"""

import math
from collections.abc import Sequence

from node.head.drafting.acceptance import Acceptance
from node.head.drafting.step_time import StepTime

__all__ = ["DEPTH_MAX", "DRAFT_MAX", "LOOP_STEPS_MAX", "Pace"]

DRAFT_MAX = 32
"""Drafted tokens of one step: at an acceptance of 0.95 more gain nothing, and 33 rows still run in
about the time of one where memory is the bound."""

DEPTH_MAX = 64
"""Drafted tokens on their way at once: bounds what a wrong guess wastes."""

GAIN_MIN = 1.03
"""Drafting must be this much faster than none, for what is learned is uncertain by as much."""

COUNT_FIRST = 2
GROWTH = 4
"""A draft has at most COUNT_FIRST tokens more than GROWTH times the longest step so far: until rows
have been tried, their price is a guess."""

FLAT_TOKENS = 3
"""Drafted tokens more than are best, once in a while when all steps have been of one length."""

EXPLORE_SHARE = 0.005
"""Share of the session's time that may go into drafts that seem not to pay, to see whether that is
still so."""

WAIT_SHARE = 0.5
"""Share of a trip that the session waits for a draft at most: beyond that it goes without."""

LOOP_STEPS_FIRST = 8
LOOP_STEPS_MAX = 32
"""Steps that the last hop may feed on by itself: doubling, for the head can draft only behind."""

FOLLOW = 0.3
"""Weight of a new loop time, or wait for a draft, against all before it."""


class Pace:
    """`hop_count` of the session's route; `acceptance` may be shared by the answers of a model."""

    def __init__(self, *, hop_count: int = 1, acceptance: Acceptance | None = None) -> None:
        self.steps = StepTime(hop_count)
        self._hop_count = hop_count
        self.acceptance = acceptance or Acceptance()
        self._wait_s: dict[str, float] = {}
        """Per source, how long one drafted token keeps the session waiting."""
        self._loop_s: float | None = None
        """Of a step that the last hop fed on by itself."""
        self._loop_steps = LOOP_STEPS_FIRST
        self._proven = 0
        """The most drafted tokens that a step has had."""
        self._credit_s = 0.0
        """For drafts that seem not to pay."""

    def note_step(self, rows: int, elapsed_s: float, *, drafted: int) -> None:
        """A step came back that had travelled alone."""
        self._proven = max(self._proven, drafted)
        self.steps.note(rows, elapsed_s)
        self._earn(elapsed_s)

    def note_behind(self, rows: int, elapsed_s: float, gap_s: float) -> None:
        """A step of drafts came back, `gap_s` behind the one on its way when it was sent."""
        self._proven = max(self._proven, rows)
        self.steps.note_behind(rows, elapsed_s, gap_s)
        self._earn(gap_s)

    def note_loop(self, elapsed_s: float) -> None:
        """A token of a loop came, so long after the one before it."""
        if math.isfinite(elapsed_s) and elapsed_s > 0:
            known_s = elapsed_s if self._loop_s is None else self._loop_s
            self._loop_s = known_s + FOLLOW * (min(elapsed_s, 2 * known_s) - known_s)
            self._earn(elapsed_s)

    def note_wait(self, source: str, count: int, waited_s: float) -> None:
        """The session was kept waiting for a draft of `count` tokens, in vain or not."""
        each_s = max(waited_s, 0.0) / max(count, 1)
        known_s = self._wait_s.get(source, each_s)
        self._wait_s[source] = known_s + FOLLOW * (each_s - known_s)

    def rate(self, source: str, count: int) -> float:
        """Tokens per second with `count` drafted tokens a step, waiting for each verdict."""
        seconds = self.steps.predict_s(count + 1) + self._wait_s.get(source, 0.0) * count
        return _expected(self.acceptance.rate(source), count) / seconds

    def best(self, source: str, room: int) -> int:
        """The k of the formula above, at most `room`: 0 where drafting does not pay."""
        longest = min(room, DRAFT_MAX, GROWTH * self._proven + COUNT_FIRST)
        none = highest = self.rate(source, 0)
        count = 0
        # the formula rises to one summit and falls from there
        while count < longest and (rate := self.rate(source, count + 1)) > highest:
            highest = rate
            count += 1
        return count if highest >= GAIN_MIN * none else 0

    def stretch(self, count: int, room: int) -> int:
        """The best count, or some more where all steps of late have been of one length."""
        return min(count + FLAT_TOKENS, room) if self.steps.is_flat else count

    def explore(self, source: str, room: int, *, loops: bool) -> int:
        """Tokens to draft though it does not seem to pay: one, where there is credit for it.

        `loops`: whether the last hop could feed on by itself instead.
        """
        best_s = min(self._looped_s, self.steps.predict_s(1)) if loops else self.steps.predict_s(1)
        cost_s = self.steps.predict_s(2) + self._wait_s.get(source, 0.0) - best_s
        if room <= 0 or not self.steps.is_known or cost_s > self._credit_s:
            return 0
        self._credit_s -= cost_s
        return 1

    def first(self, source: str, count: int) -> int:
        """How many of `count` drafted tokens go in the first step; the others may follow it."""
        if self.steps.is_flat:
            return count
        half = (count + 1) // 2
        return half if half < count and self.more(source, [source] * half, count - half) else count

    def more(self, source: str, ahead: Sequence[str], room: int) -> int:
        """Tokens to send now behind drafted ones of sources `ahead`; 0: wait for the verdict."""
        room = min(room, DEPTH_MAX - len(ahead))
        chance = self.acceptance.alive(ahead) * self.acceptance.rate(source)
        count = (self.best(source, room) + 1) // 2
        if not count or not self.steps.is_known:
            return 0
        return count if chance * self.steps.base_s > self.steps.busy_s(count) else 0

    def wait_max_s(self, source: str, count: int) -> float:
        """How long a draft of so many tokens is worth waiting for."""
        saved_s = (_expected(self.acceptance.rate(source), count) - 1) * self.steps.base_s
        return min(saved_s, WAIT_SHARE * self.steps.base_s) if self.steps.is_known else 0.0

    def loop(self, source: str, count: int, remaining: int) -> int:
        """Steps to let the last hop feed on by itself, rather than draft `count` tokens; or 0.

        `remaining`: tokens that the answer may still have.
        """
        lost_s = self._looped_s - 1 / self.rate(source, count)
        if lost_s > 0 and not self._explores_loop(lost_s):
            self._loop_steps = LOOP_STEPS_FIRST
            return 0
        steps = max(min(self._loop_steps, remaining - 1), 0)
        self._loop_steps = min(2 * self._loop_steps, LOOP_STEPS_MAX)
        return steps

    @property
    def _looped_s(self) -> float:
        """Of a step that the last hop feeds on: untried, a trip with one link fewer."""
        links_and_hops = 2 * self._hop_count + 1
        guess_s = self.steps.predict_s(1) * (links_and_hops - 1) / links_and_hops
        return guess_s if self._loop_s is None else self._loop_s

    def _explores_loop(self, lost_s: float) -> bool:
        """Whether to see again how long a loop takes, though it lost so much a token before."""
        cost_s = LOOP_STEPS_FIRST * lost_s
        if cost_s > self._credit_s:
            return False
        self._credit_s -= cost_s
        self._loop_steps = LOOP_STEPS_FIRST
        return True

    def _earn(self, elapsed_s: float) -> None:
        credit_s = self._credit_s + EXPLORE_SHARE * elapsed_s
        self._credit_s = min(credit_s, self.steps.base_s)


def _expected(rate: float, count: int) -> float:
    """Tokens that a step with `count` drafted ones yields: each that holds, and the true one."""
    return (1 - rate ** (count + 1)) / (1 - rate)
