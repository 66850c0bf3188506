"""What a drafter is, and the session that its drafts go round.

A draft is a guess at the tokens that follow. It is sent round behind the last certain token, and
the model's own draw at every row decides: a drafted token holds if it is the one that is drawn.
What comes out is the same with good drafts, bad ones and none; only the number of trips differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.frame import Result, StepKind
from protocol.tensor import WireDtype

__all__ = ["Draft", "Drafter", "DraftingStatistics", "SteppedSession"]


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may follow. `source`: the name under which their acceptance is learned."""

    tokens: tuple[int, ...]
    source: str


class Drafter(Protocol):
    """Makes drafts for one answer. Opened, used and closed by generate().

    A `branch` is the whole sequence: prompt, answer so far, and behind them drafted tokens that are
    still on their way. It never contradicts what was confirmed, but one that a drafter at work was
    given a while ago may be the shorter of the two.
    """

    @property
    def works(self) -> bool:
        """Whether a draft takes work. Such a drafter runs in a task beside the session."""
        ...

    async def open(self) -> None:
        """Before the first draft. EngineError: the answer goes on without this drafter."""
        ...

    def confirm(self, tokens: Sequence[int]) -> None:
        """These tokens follow for certain what was confirmed before; the prompt comes first."""
        ...

    def source(self, branch: Sequence[int]) -> str | None:
        """What a draft behind `branch` would have for its source; None: there is none. At once."""
        ...

    async def propose(self, branch: Sequence[int], count: int) -> Draft | None:
        """At most `count` tokens that may follow `branch`.

        May be cancelled at any time and be asked again. `branch` does not change meanwhile.
        EngineError: the answer goes on without this drafter.
        """
        ...

    async def close(self) -> None:
        """After `open` had begun, in every case."""
        ...


@dataclass(slots=True)
class DraftingStatistics:
    """What one answer's drafting came to. Written by generate(), read by whoever made it."""

    trips: int = 0
    """Results that decided on tokens: the prompt's own, those of steps, and those of a loop."""
    steps: int = 0
    """Steps sent behind the prompt."""
    rows: int = 0
    """Rows of these steps."""
    drafted: int = 0
    """Drafted tokens that were sent."""
    accepted: int = 0
    """Those that held."""
    void_steps: int = 0
    """Steps taken back while they were on their way."""
    looped: int = 0
    """Tokens that came of steps the last hop fed on by itself."""


class SteppedSession(Protocol):
    """A session as generate() drives it; node/head/session.py has the real ones."""

    @property
    def position(self) -> int:
        """Where the next step begins."""
        ...

    @property
    def in_flight(self) -> int:
        """Steps whose result is not back, void ones too."""
        ...

    async def send_step(
        self,
        kind: StepKind,
        payload: bytes,
        *,
        tokens: Sequence[int],
        wanted: int,
        dtype: WireDtype | None,
        loop: int = 0,
    ) -> None:
        """Send the rows of `tokens` round."""
        ...

    async def receive_result(self) -> Result:
        """The next live step's result, in order."""
        ...

    async def truncate(self, position: int) -> None:
        """Forget rows at every hop; steps on their way at or behind `position` are void."""
        ...
