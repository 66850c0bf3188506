"""The sources of one fetch: who is asked next, who waits after a failure, who is out for good."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from node.models.errors import NotHeld, SourceFailed, SourceLied, SourcesFailed
from node.models.progress import Listener, SourceDropped
from node.models.sources import Source

__all__ = ["Patience", "Roster", "Standing"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a fetch bears with its sources; the defaults are for home links."""

    concurrent_max: int = 4
    """Requests under way at once, over all sources: fills a home link, and no server minds."""
    attempts_max: int = 5
    """Failures in a row until a source is out."""
    backoff_s: float = 0.5
    """After the first failure; doubled after each further one."""
    backoff_s_max: float = 30.0
    chunk_timeout_s: float = 60.0
    """For one MiB: a source below 17 KiB/s counts as stalled, however steadily it drips."""
    answer_timeout_s: float = 300.0
    """For a manifest, a header or a text whole: 64 MiB over a slow home link."""


@dataclass(slots=True, eq=False)
class Standing:
    """One source and how it has behaved. Owned by the roster."""

    source: Source
    in_flight: int = 0
    failures: int = 0
    """In a row."""
    ready_at_s: float = 0.0
    is_out: bool = False
    reason: str = ""
    """Why it failed last."""


class Roster:
    """Sources in the order in which they are preferred."""

    def __init__(
        self, sources: Sequence[Source], listener: Listener, patience: Patience | None = None
    ) -> None:
        self.patience = patience or Patience()
        self._standings = [Standing(source) for source in sources]
        self._listener = listener

    @property
    def sources(self) -> list[Source]:
        """Those that may still be asked."""
        return [standing.source for standing in self._standings if not standing.is_out]

    async def close(self) -> None:
        for standing in self._standings:
            await standing.source.close()

    async def choose(self, what: str, excluded: Collection[Standing]) -> Standing:
        """Wait for a source that may be asked for `what`. Raises SourcesFailed when none is left.

        The least busy is taken, and of those the first: several sources are used at once.
        """
        while True:
            left = [s for s in self._standings if not s.is_out and s not in excluded]
            if not left:
                raise SourcesFailed(what, self._reasons())
            now_s = asyncio.get_running_loop().time()
            ready = [standing for standing in left if standing.ready_at_s <= now_s]
            if ready:
                return min(ready, key=lambda standing: standing.in_flight)
            await asyncio.sleep(min(standing.ready_at_s for standing in left) - now_s)

    async def ask(self, what: str, question: Callable[[Source], Awaitable[T]]) -> T:
        """The first good answer; `question` raises SourceLied for one that is wrong.

        Raises NotHeld when every source that answers has none, SourcesFailed when none answers.
        """
        lacking: list[Standing] = []
        while True:
            try:
                standing = await self.choose(what, lacking)
            except SourcesFailed as failed:
                if lacking and all(s.is_out or s in lacking for s in self._standings):
                    raise NotHeld(f"No source has {what}.") from failed
                raise
            try:
                async with asyncio.timeout(self.patience.answer_timeout_s):
                    answer = await question(standing.source)
            except TimeoutError:
                self.blame(standing, SourceFailed("It did not answer in time."))
            except NotHeld as error:
                standing.reason = error.message
                lacking.append(standing)
            except SourceFailed as error:
                self.blame(standing, error)
            else:
                standing.failures = 0
                return answer

    def blame(self, standing: Standing, error: SourceFailed) -> None:
        """A failure puts a source off for a while, too many in a row or a lie for good."""
        standing.reason = error.message
        standing.failures += 1
        patience = self.patience
        was_out = standing.is_out
        lied = isinstance(error, SourceLied)
        standing.is_out |= lied or standing.failures >= patience.attempts_max
        wait_s = min(patience.backoff_s * 2 ** (standing.failures - 1), patience.backoff_s_max)
        standing.ready_at_s = asyncio.get_running_loop().time() + wait_s
        if standing.is_out and not was_out:
            self._listener(SourceDropped(standing.source.name, error.message, lied))

    def _reasons(self) -> dict[str, str]:
        return {s.source.name: s.reason or "it does not have this" for s in self._standings}
