"""What a head must know of a session to build it up anew: every row's token, and what is under way.

It outlives the route that the session runs on.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.frame import Result, StepKind
from protocol.tensor import WireDtype

__all__ = ["SentStep", "SessionRecord"]


@dataclass(frozen=True, slots=True)
class SentStep:
    """A step as it would be sent again. `payload` holds the rows of `tokens`."""

    kind: StepKind
    payload: bytes
    tokens: tuple[int, ...]
    wanted: int
    dtype: WireDtype | None
    loop: int = 0


class SessionRecord:
    """Rows sent and results not yet taken. Bounded by the session's capacity."""

    def __init__(self) -> None:
        self.results: deque[Result] = deque()
        """Live results that nobody has taken yet, in order."""
        self._tokens: list[int] = []
        self._answer_from = 0
        """Where the first token stands that was drawn and not given."""
        self._under_way: dict[int, SentStep] = {}

    def sent(self, position: int, step: SentStep) -> None:
        """A step's rows are on their way; its result is wanted."""
        if step.kind is StepKind.PREFILL:
            self._answer_from = position + len(step.tokens)
        self._under_way[position] = step
        self._tokens[position:] = step.tokens

    def arrived(self, position: int) -> None:
        """The result of the step at `position` is here."""
        del self._under_way[position]

    def took_back(self, position: int) -> None:
        """Rows at or behind `position` are void, steps that begin there, and their results."""
        for late in [start for start in self._under_way if start >= position]:
            del self._under_way[late]
        del self._tokens[position:]
        self.results = deque(r for r in self.results if r.position < position)

    def take_under_way(self, rows: int) -> list[SentStep]:
        """The steps to send again behind the first `rows` rows, in order; forgets them here."""
        steps = [self._under_way[position] for position in sorted(self._under_way)]
        self._under_way.clear()
        del self._tokens[rows:]
        return steps

    def tokens(self, start: int, stop: int) -> Sequence[int]:
        """The tokens of rows [start, stop)."""
        return self._tokens[start:stop]

    def drawn(self, rows: int) -> Sequence[int]:
        """The answer's tokens up to the one that stands at position `rows`."""
        return self._tokens[self._answer_from : rows + 1]
