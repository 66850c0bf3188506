"""A drafter that works, at work in a task beside the session: at most one draft at a time.

While steps are on their way it drafts what may follow them. A result that breaks the branch under
it ends that work; one that only confirms it leaves it be.
"""

import asyncio
import logging
from collections.abc import Sequence

from node.head.drafting.base import Draft, Drafter
from protocol.errors import EngineError

__all__ = ["Ahead", "Guess"]

logger = logging.getLogger(__name__)


class Guess:
    """A draft, and the place of its first token in the sequence."""

    def __init__(self, start: int, draft: Draft) -> None:
        self.start = start
        self._draft = draft

    def behind(self, branch: Sequence[int], end: int | None = None) -> Draft | None:
        """What it says behind branch[:end]; None if nothing, or if that is another branch."""
        end = len(branch) if end is None else end
        reached = end - self.start
        tokens = self._draft.tokens
        if not 0 <= reached < len(tokens) or tuple(branch[self.start : end]) != tokens[:reached]:
            return None
        return Draft(tokens[reached:], self._draft.source)


class Ahead:
    """One drafter beside one session. `close` in every case; then the drafter is closed too."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.guess: Guess | None = None
        """The latest draft."""
        self.failed = False
        """Whether the drafter is given up."""
        self.is_begun = False
        """Whether a draft has ever come: the first takes as long as the prompt is to read."""
        self._task: asyncio.Task[Draft | None] | None = None
        self._start = 0
        self._nothing_at: int | None = None
        """The length of a branch behind which the drafter had nothing to say."""
        self._given_up: set[asyncio.Task[Draft | None]] = set()
        """Work that was cancelled and has not ended yet."""
        self._opening: asyncio.Task[None] | None = None

    @property
    def task(self) -> "asyncio.Task[Draft | None] | None":
        """The work under way."""
        return self._task

    def behind(self, branch: Sequence[int]) -> Draft | None:
        """What the latest draft says behind `branch`."""
        self.collect()
        return None if self.guess is None else self.guess.behind(branch)

    def start(self, branch: Sequence[int], count: int) -> None:
        """Begin to draft behind `branch`, unless that is under way or in vain."""
        if self._task is None and not self.failed and self._nothing_at != len(branch):
            self._start = len(branch)
            self._task = asyncio.create_task(self._draft(list(branch), count))

    async def wait(self, timeout_s: float) -> None:
        """For the work under way to end, at most so long."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=max(timeout_s, 0.0))
            self.collect()

    def collect(self) -> None:
        """Take the draft if the work is done; an engine's failure ends all drafting here."""
        task = self._task
        if task is None or not task.done():
            return
        self._task = None
        if task.cancelled():
            return
        if (error := task.exception()) is None:
            draft = task.result()
            self.is_begun = True
            self.guess = Guess(self._start, draft) if draft is not None else None
            self._nothing_at = self._start if draft is None else None
        elif isinstance(error, EngineError):
            self.failed = True
            self.guess = None
            logger.warning("the answer goes on without its draft model: %s", error)
        else:
            raise error

    def break_at(self, index: int) -> None:
        """The sequence has another token at `index` than was drafted."""
        self._nothing_at = None
        if self._task is not None and index < self._start:
            self._give_up(self._task)
            self._task = None
        if self.guess is not None and index < self.guess.start:
            self.guess = None

    async def close(self) -> None:
        """End the work and close the drafter; what either did before is of no interest now."""
        if self._task is not None:
            self._give_up(self._task)
            self._task = None
        await asyncio.gather(*self._given_up, return_exceptions=True)
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
            self._opening = None
            await self.drafter.close()

    async def _draft(self, branch: list[int], count: int) -> Draft | None:
        if self._given_up:
            await asyncio.wait(self._given_up)
        if self._opening is None:
            self._opening = asyncio.create_task(self.drafter.open())
        # to give up a draft is not to give up the opening, which later drafts rest on
        await asyncio.shield(self._opening)
        return await self.drafter.propose(branch, count)

    def _give_up(self, task: "asyncio.Task[Draft | None]") -> None:
        task.cancel()
        self._given_up.add(task)
        task.add_done_callback(self._given_up.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
