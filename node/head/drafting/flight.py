"""What of an answer is certain, what is drafted and on its way, and what a result makes of it.

    branch   p p p p a a a a d d d d        p prompt, a answer, d drafted
             ────────┬──────┬───────
                     prompt  confirmed

The row at index i draws the token that belongs at i + 1. Rows are sent once, in order; all of the
branch has been sent but the last confirmed token, where nothing is on its way. A result confirms
tokens one by one until one is not what was drafted: that token is the true one, and the rows from
its place on are void. Pure; no clock, no I/O.
"""

from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from node.head.drafting.base import Draft
from protocol.errors import LocalProtocolError

__all__ = ["Flight", "Funding", "Trial", "Verdict"]


class Funding(NamedTuple):
    """What of an answer is paid for now; None: no bound."""

    rows: int | None
    """Of the session."""
    spare_rows: int | None
    """Beyond those, that may run in vain in all."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One drafted token put to the test."""

    source: str
    held: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a result has decided."""

    tokens: tuple[int, ...]
    """Newly confirmed, in order; none behind the answer's end."""
    trials: tuple[Trial, ...]
    truncate_to: int | None
    """The first row that is void, if rows are: its place has another token than was sent."""


class Flight:
    """The tokens of one answer, from the prompt being on its way to the last one confirmed.

    `spare_rows`: rows beyond those of an answer without drafts that may run in vain; None: any.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        eos: Set[int],
        spare_rows: int | None = None,
    ) -> None:
        self.branch = list(prompt)
        """Tokens confirmed, then drafted ones on their way. Not the reader's to change."""
        self.confirmed = len(prompt)
        """Leading tokens of the branch that are certain."""
        self.is_over = max_tokens <= 0
        """Whether the answer has all its tokens."""
        self.is_looping = False
        """Whether the last hop feeds on by itself: then nothing may be sent."""
        self._sent = len(prompt)
        """Rows sent, which are all the session has: where the next step begins."""
        self._end = len(prompt) + max_tokens
        """Tokens of prompt and longest answer: the last of them never becomes a row."""
        self._eos = eos
        self._spare_rows = spare_rows
        """In all; None: any number."""
        self._wasted_rows = 0
        """Of those: run in vain for certain."""
        self._funded_rows: int | None = None
        self._sources: deque[str] = deque()
        """Of the drafted tokens on their way."""

    @property
    def position(self) -> int:
        """Where the next step begins."""
        return self._sent

    @property
    def is_waiting(self) -> bool:
        """Whether a live step is on its way."""
        return self._sent >= self.confirmed

    @property
    def sources(self) -> Sequence[str]:
        """Of the drafted tokens on their way, in order."""
        return self._sources

    @property
    def remaining(self) -> int:
        """Tokens that the answer may still have."""
        return self._end - self.confirmed

    @property
    def loop_tokens(self) -> int:
        """Tokens that the answer may still have and whose rows are paid for: all a loop may add."""
        if self._funded_rows is None:
            return self.remaining
        return max(min(self.remaining, self._funded_rows - self._sent), 0)

    @property
    def room(self) -> int:
        """Drafted tokens that may be sent now: no row is sent whose draw nobody could use."""
        room = self._end - 1 - len(self.branch)
        if self._spare_rows is not None:
            room = min(room, self._spare_rows - self._wasted_rows - len(self._sources))
        if self._funded_rows is not None:
            room = min(room, self._funded_rows - len(self.branch))
        return max(room, 0)

    def fund(self, funding: Funding) -> None:
        """So much is paid for from now on: a draft shall not wait for more."""
        self._funded_rows, self._spare_rows = funding

    def fit(self, draft: Draft) -> Draft:
        """As much of a draft as may be sent: within `room`, and before a token that ends all."""
        tokens = draft.tokens[: self.room]
        end = next((i for i, token in enumerate(tokens) if token in self._eos), len(tokens))
        return Draft(tokens[:end], draft.source)

    def send(self, draft: Draft | None = None, *, loop: int = 0) -> list[int]:
        """The rows of the next step: the last confirmed token unless sent, then those drafted.

        LocalProtocolError where there are none, or a loop is under way.
        """
        if self.is_looping or (loop and (draft or self.is_waiting)):
            raise LocalProtocolError("A loop goes on alone.")
        if draft is not None:
            self.branch += draft.tokens
            self._sources.extend(draft.source for _ in draft.tokens)
        rows = self.branch[self._sent :]
        if not rows:
            raise LocalProtocolError("A step without rows.")
        self._sent = len(self.branch)
        self.is_looping = loop > 0
        return rows

    def accept(self, drawn: Sequence[int], *, fed_on: bool = False) -> Verdict:
        """Take the next live result: what its wanted rows drew. `fed_on`: its token is a row now.

        The first of these rows is that of the last confirmed token.
        """
        fresh: list[int] = []
        trials: list[Trial] = []
        truncate_to = None
        for token in drawn:
            if self.is_over or truncate_to is not None:
                break
            if self.confirmed < len(self.branch):
                trials.append(Trial(self._sources.popleft(), self.branch[self.confirmed] == token))
                if not trials[-1].held:
                    truncate_to = self._break()
            if self.confirmed == len(self.branch):
                self.branch.append(token)
            self.confirmed += 1
            fresh.append(token)
            self.is_over = token in self._eos or self.confirmed == self._end
        self.is_looping = fed_on
        if fed_on:
            self._sent += 1
        return Verdict(tuple(fresh), tuple(trials), truncate_to)

    def _break(self) -> int:
        """The branch ends where it was confirmed; the first void row."""
        self._wasted_rows += self._sent - self.confirmed
        del self.branch[self.confirmed :]
        self._sources.clear()
        self._sent = self.confirmed
        return self.confirmed
