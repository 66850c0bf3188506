"""What to send next, and when to wait: one answer's flight, its drafters and its pace put together.

    nothing on its way   the last token goes: with a draft behind it where that pays, or as a loop
    steps on their way   a further draft goes behind them where that pays; else wait

generate() drives the session by it. Draft models work in tasks of their own, so that neither a
result nor the next step has to wait for them for long.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from node.head.drafting.base import Draft, Drafter, DraftingStatistics, SteppedSession
from node.head.drafting.drafters import Drafters, Offer
from node.head.drafting.flight import Flight, Funding, Verdict
from node.head.drafting.pace import Pace
from node.head.drafting.stopwatch import Stopwatch
from protocol.frame import Result
from protocol.session import STEPS_IN_FLIGHT_MAX

__all__ = ["NextStep", "Stepper"]


@dataclass(frozen=True, slots=True)
class NextStep:
    """The rows of a step, where the first stands, and how often the last hop may feed it on."""

    tokens: list[int]
    position: int
    drafted: int
    loop: int


class Stepper:
    """A context manager: leaving it ends every task of its own and closes the drafters."""

    def __init__(
        self,
        session: SteppedSession,
        flight: Flight,
        drafters: Sequence[Drafter],
        pace: Pace,
        *,
        loops: bool,
        statistics: DraftingStatistics,
        clock: Callable[[], float],
        funding: Callable[[], Funding] | None = None,
    ) -> None:
        """`funding`: what is paid for at the moment, where that grows."""
        self._funding = funding
        self._session = session
        self._flight = flight
        self._pace = pace
        self._loops = loops
        self._statistics = statistics
        self._clock = clock
        self._drafters = Drafters(drafters, pace, clock)
        self._stopwatch = Stopwatch(pace)
        self._receiving: asyncio.Task[Result] | None = None

    async def __aenter__(self) -> "Stepper":
        try:
            await self._drafters.begin(self._flight.branch)
        except BaseException:
            await self._drafters.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.gather(self._receiving, return_exceptions=True)
        await self._drafters.close()

    def chunk_sent(self, rows: int) -> None:
        """A chunk of the prompt is leaving."""
        self._stopwatch.sent_chunk(rows, self._clock())

    def chunk_came(self) -> None:
        """It came back; of the last one `learn` is told."""
        self._stopwatch.came(self._clock(), fed_on=False)

    async def next_step(self) -> NextStep | None:
        """What to send now, counted as sent; None: wait for a result."""
        flight = self._flight
        if self._funding is not None:
            flight.fund(self._funding())
        if flight.is_looping:
            await self._drafters.watch(flight.branch)
            return None
        if flight.is_waiting:
            return await self._further_step()
        offers = self._drafters.choose(flight.branch, flight.room, loops=self._loops)
        if self._loops and (steps := self._loop_steps(offers)):
            await self._drafters.watch(flight.branch)
            return self._send(None, loop=steps)
        draft = await self._drafters.draft(offers, flight.branch)
        draft = flight.fit(draft) if draft else None
        if draft is None or not draft.tokens:
            await self._drafters.watch(flight.branch)
            return self._send(None)
        count = self._pace.first(draft.source, len(draft.tokens))
        return self._send(Draft(draft.tokens[:count], draft.source))

    async def receive(self) -> Result | None:
        """The next result; None when a draft was ready first."""
        at_work = self._drafters.at_work
        if self._receiving is None and not at_work:
            return await self._session.receive_result()
        if self._receiving is None:
            self._receiving = asyncio.create_task(self._session.receive_result())
        tasks = [ahead.task for ahead in at_work if ahead.task is not None]
        await asyncio.wait([self._receiving, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for ahead in at_work:
            ahead.collect()
        if not self._receiving.done():
            return None
        receiving, self._receiving = self._receiving, None
        return receiving.result()

    def learn(self, verdict: Verdict, *, fed_on: bool) -> None:
        """Take in what a result has decided, as soon as it is known."""
        self._stopwatch.came(self._clock(), fed_on=fed_on)
        self._statistics.trips += 1
        self._statistics.looped += fed_on
        for trial in verdict.trials:
            self._statistics.accepted += trial.held
            self._pace.acceptance.note(trial.source, held=trial.held)
        if verdict.truncate_to is not None:
            self._statistics.void_steps += self._stopwatch.voided()
            self._drafters.broke(verdict.truncate_to)
        if len(verdict.tokens) > len(verdict.trials):
            self._drafters.came(self._flight.branch)
        self._drafters.confirm(verdict.tokens)

    def _loop_steps(self, offers: Sequence[Offer]) -> int:
        if offers and offers[0].explores:
            return 0
        source, count = (offers[0].source, offers[0].count) if offers else ("", 0)
        return self._pace.loop(source, count, self._flight.loop_tokens)

    async def _further_step(self) -> NextStep | None:
        # a place is kept free for the step that must follow when all of these turn out void
        if self._session.in_flight >= STEPS_IN_FLIGHT_MAX - 1:
            return None
        flight = self._flight
        draft = await self._drafters.further(flight.branch, flight.sources, flight.room)
        draft = flight.fit(draft) if draft else None
        return self._send(draft) if draft is not None and draft.tokens else None

    def _send(self, draft: Draft | None, *, loop: int = 0) -> NextStep:
        drafted = len(draft.tokens) if draft else 0
        position = self._flight.position
        rows = self._flight.send(draft, loop=loop)
        is_alone = self._session.in_flight == 0
        self._stopwatch.sent(len(rows), drafted, self._clock(), is_alone=is_alone)
        self._statistics.steps += 1
        self._statistics.rows += len(rows)
        self._statistics.drafted += drafted
        return NextStep(rows, position, drafted, loop)
