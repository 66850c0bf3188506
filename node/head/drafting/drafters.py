"""The drafters of one answer: which to ask, and when what it says is there.

A drafter that only looks things up is asked at once. One that works is asked ahead, in a task
(ahead.py), and the session waits for it only where nothing is on its way, and then not long. What
is not sent is still compared with what came, so that a source which does not pay now is not
written off for ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from node.head.drafting.ahead import Ahead, Guess
from node.head.drafting.base import Draft, Drafter
from node.head.drafting.pace import DRAFT_MAX, Pace

__all__ = ["Drafters", "Offer"]

GUESS_TOKENS = 8
"""Tokens of a draft that is compared and not sent."""

ASKS_MAX = 2
"""Drafts asked for one step: what a draft model was at when the step came may be of no use."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A drafter that has something to say behind the branch, and how much of it is wanted."""

    drafter: Drafter
    source: str
    count: int
    explores: bool = False
    """Whether it is more than seems to pay, to see if that is still so."""


class Drafters:
    """Of one answer. `close` in every case."""

    def __init__(self, drafters: Sequence[Drafter], pace: Pace, clock: Callable[[], float]) -> None:
        self._drafters = tuple(drafters)
        self._pace = pace
        self._clock = clock
        self._ahead = {id(drafter): Ahead(drafter) for drafter in drafters if drafter.works}
        self._unsent: Guess | None = None
        """The latest draft that was compared only."""

    @property
    def at_work(self) -> list[Ahead]:
        """Those whose draft is under way."""
        return [ahead for ahead in self._ahead.values() if ahead.task is not None]

    async def begin(self, prompt: Sequence[int]) -> None:
        """Open them. A draft model reads the prompt beside the prompt's own way round."""
        self.confirm(prompt)
        for drafter in self._drafters:
            if (ahead := self._ahead.get(id(drafter))) is not None:
                ahead.start(prompt, 1)
            else:
                await drafter.open()

    async def close(self) -> None:
        for drafter in self._drafters:
            ahead = self._ahead.get(id(drafter))
            await (drafter.close() if ahead is None else ahead.close())

    def choose(self, branch: Sequence[int], room: int, *, loops: bool) -> list[Offer]:
        """Whose drafts are worth sending behind the last confirmed token, the best first.

        `loops`: whether the last hop could feed on by itself instead.
        """
        offers = self._offers(branch, lambda source: self._pace.best(source, room))
        paying = [offer for offer in offers if offer.count]
        if not offers:
            return []
        first = paying[0] if paying else offers[0]
        if paying:
            count = self._pace.stretch(first.count, room)
        else:
            count = self._pace.explore(first.source, room, loops=loops)
        if count > first.count:
            return [replace(first, count=count, explores=True), *paying[1:]]
        return paying

    async def draft(self, offers: Sequence[Offer], branch: Sequence[int]) -> Draft | None:
        """The first of these that is there, or is there in time."""
        for offer in offers:
            ahead = self._ahead.get(id(offer.drafter))
            if ahead is not None:
                await self._wait(ahead, offer, branch)
            if (draft := await self._said(offer, branch)) is not None:
                return draft
        return None

    async def further(
        self, branch: Sequence[int], sources: Sequence[str], room: int
    ) -> Draft | None:
        """What to send behind drafted tokens of `sources` now; None: wait.

        Keeps the draft models at work on what may follow.
        """
        for drafter in self._drafters:
            self._draft_ahead(drafter, branch)
        for offer in self._offers(branch, lambda source: self._pace.more(source, sources, room)):
            if offer.count and (draft := await self._said(offer, branch)) is not None:
                return draft
        return None

    async def watch(self, branch: Sequence[int]) -> None:
        """A step goes without drafts: see what would have become of them, where that is free."""
        if self._unsent is not None and self._unsent.behind(branch) is not None:
            return
        self._unsent = None
        idle = [d for d in self._drafters if not d.works and d.source(branch) is not None]
        if idle and (draft := await idle[0].propose(branch, GUESS_TOKENS)) is not None:
            self._unsent = Guess(len(branch), draft)

    def came(self, branch: Sequence[int]) -> None:
        """The last token of `branch` was drawn and had not been drafted on its way."""
        token = branch[-1]
        guesses = [self._unsent, *(ahead.guess for ahead in self._ahead.values())]
        for guess in guesses:
            said = None if guess is None else guess.behind(branch, len(branch) - 1)
            if said is not None:
                self._pace.acceptance.note(said.source, held=said.tokens[0] == token)

    def broke(self, index: int) -> None:
        """The sequence has another token at `index` than was drafted."""
        for ahead in self._ahead.values():
            ahead.break_at(index)

    def confirm(self, tokens: Sequence[int]) -> None:
        for drafter in self._drafters:
            drafter.confirm(tokens)

    def _offers(self, branch: Sequence[int], count_of: Callable[[str], int]) -> list[Offer]:
        """What each drafter could say, the most promising first; counts may be 0."""
        offers = []
        for drafter in self._drafters:
            ahead = self._ahead.get(id(drafter))
            if ahead is not None and ahead.failed:
                continue
            if (source := drafter.source(branch)) is not None:
                offers.append(Offer(drafter, source, count_of(source)))
        return sorted(offers, key=lambda o: -self._pace.rate(o.source, max(o.count, 1)))

    async def _said(self, offer: Offer, branch: Sequence[int]) -> Draft | None:
        """What the drafter has to say, as far as it has thought of it already."""
        ahead = self._ahead.get(id(offer.drafter))
        if ahead is None:
            return await offer.drafter.propose(branch, offer.count)
        draft = ahead.behind(branch)
        return None if draft is None else Draft(draft.tokens[: offer.count], draft.source)

    async def _wait(self, ahead: Ahead, offer: Offer, branch: Sequence[int]) -> None:
        """Until the drafter has something to say, but no longer than that is worth."""
        started_s = self._clock()
        wait_max_s = self._pace.wait_max_s(offer.source, offer.count)
        if not ahead.is_begun or wait_max_s <= 0:
            return
        until_s = started_s + wait_max_s
        for _ in range(ASKS_MAX):
            if ahead.behind(branch) is not None:
                break
            ahead.start(branch, offer.count)
            await ahead.wait(until_s - self._clock())
        # a wait in vain is worth no token: as if for one alone
        count = offer.count if ahead.behind(branch) is not None else 1
        self._pace.note_wait(offer.source, count, self._clock() - started_s)

    def _draft_ahead(self, drafter: Drafter, branch: Sequence[int]) -> None:
        ahead = self._ahead.get(id(drafter))
        source = drafter.source(branch)
        if ahead is None or source is None or ahead.behind(branch) is not None:
            return
        if count := self._pace.best(source, DRAFT_MAX):
            # one more than a step's: the first is a guess at what the step on its way will draw
            ahead.start(branch, count + 1)
