"""Paying for an answer while it runs: one instalment after another, each asked for ahead.

    funded   ├────────────────────────────────┤            rows that every hop is paid for
    sent     ├────────────────────┤           │            half of the instalment is left:
                                  └─ ask ─────┴─────────►  beside the answer, so that it never waits

Where the balance does not cover a further instalment a smaller one is tried; where it covers none,
the answer ends with the last row that is paid for. A marketplace that is away is asked for a while:
it may just be starting anew, and the same again holds nothing more.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from node.errors import MarketRefused, MarketUnreachable, PaymentRequired
from node.head.drafting.flight import Funding
from node.head.session import RouteSession
from node.router.base import RoutePlan, Router, RouteRequest, smaller_instalments
from protocol.errors import ErrorCode, SessionError, VerificationError

__all__ = ["AnswerUnfunded", "Instalments"]

EXTEND_TIMEOUT_S = 10.0
"""From the leases leaving until every hop has confirmed them: a round trip, on a bad link."""
TRIES_MAX = 4
"""Of one instalment, each after a repair that overtook the one before."""
OUTAGE_MAX_S = 30.0
"""A marketplace that is started again answers within half of it; an answer in mid sentence is worth
the wait, and most of it passes while rows that are paid for are sent."""
ASK_AGAIN_S = 0.25
ASK_AGAIN_MAX_S = 2.0
"""Between two tries, doubling: an outage ends for all answers at once."""
_CONFLICT = 409

logger = logging.getLogger(__name__)


class AnswerUnfunded(SessionError):
    """The answer has come to the last row that is paid for, and more cannot be.

    `reason`: the marketplace's code (`insufficient_funds`, `funds_in_flight`, `key_limit`),
    `marketplace_unreachable`, or `payment_unconfirmed` where hops have not taken what was paid.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, code=ErrorCode.UNPAID)
        self.reason = reason


class Instalments:
    """Of one answer. `session` gives its present RouteSession; `lock` keeps repairs apart."""

    def __init__(
        self,
        router: Router,
        request: RouteRequest,
        session: Callable[[], RouteSession],
        lock: asyncio.Lock,
        mend: Callable[[], Awaitable[None]],
        *,
        outage_max_s: float = OUTAGE_MAX_S,
    ) -> None:
        """`mend`: replace hops that are lost, if some are, so that the rest can be told."""
        self._outage_max_s = outage_max_s
        self._router = router
        self._request = request
        self._session = session
        self._lock = lock
        self._mend = mend
        self._task: asyncio.Task[None] | None = None
        self._refused_at: int | None = None
        """How many rows were funded when more was refused: asked again only at the very end."""

    @property
    def funding(self) -> Funding:
        """What may be sent now: rows, and rows in vain."""
        session = self._session()
        return Funding(session.funded_rows, session.plan.spare_rows)

    def look_ahead(self, position: int) -> None:
        """Begin to ask for the next instalment when half of this one is left."""
        funded = self._session().funded_rows
        if funded is None or self._task is not None or self._refused_at == funded:
            return
        if funded < self._rows_max and funded - position <= self._instalment_tokens // 2:
            self._task = asyncio.create_task(self._ask_ahead())

    async def wait_for(self, rows: int) -> None:
        """Until so many rows are paid for. Raises AnswerUnfunded where they cannot be."""
        while (funded := self._session().funded_rows) is not None and funded < rows:
            if self._task is None:
                self._task = asyncio.create_task(self._extend(mends=True))
            task = self._task
            await asyncio.wait((task,))
            self._task = None
            funded_now = self._session().funded_rows
            # a refusal from ahead is no last word: money may have come back since
            if funded_now is not None and funded_now < rows and (error := task.exception()):
                raise _unfunded(error) from error

    async def close(self) -> None:
        """Ask for no more. Never raises."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    @property
    def _instalment_tokens(self) -> int:
        """What the answer began with; the last one is as short as its bound asks for."""
        assert self._request.funded_tokens is not None, "an answer that is paid for as it comes"
        return self._request.funded_tokens

    @property
    def _rows_max(self) -> int:
        return self._request.capacity_tokens

    async def _ask_ahead(self) -> None:
        """As `_extend`; a refusal is only noted, for what is funded is not used up yet."""
        try:
            await self._extend(mends=False)
        except (MarketRefused, MarketUnreachable, SessionError, VerificationError) as error:
            self._refused_at = self._session().funded_rows
            logger.info("no further instalment yet: %s", error)
        finally:
            self._task = None

    async def _extend(self, *, mends: bool) -> None:
        """One instalment more, the largest that the balance covers.

        `mends`: nobody else waits for a result and would see that a hop is lost.
        """
        *larger, least = (self._instalment_tokens, *smaller_instalments(self._instalment_tokens))
        for tokens in larger:
            try:
                await self._extend_by(tokens, mends=mends)
                return
            except PaymentRequired as error:
                logger.debug("no %d tokens more: %s", tokens, error)
        await self._extend_by(least, mends=mends)

    async def _extend_by(self, tokens: int, *, mends: bool) -> None:
        for _ in range(TRIES_MAX):
            if mends:
                await self._mend()
            session = self._session()
            plan = session.plan
            assert plan.funded_rows is not None
            funded = plan.funded_rows + tokens - self._request.prompt_tokens
            funded = min(funded, self._request.max_tokens)
            drafted = (plan.spare_rows or 0) + self._share(plan, tokens)
            try:
                granted = await self._ask(plan, funded_tokens=funded, drafted_tokens=drafted)
            except MarketRefused as error:
                if error.status != _CONFLICT or self._session().plan.epoch == plan.epoch:
                    raise
                continue
            if await self._tell(granted):
                return
        raise SessionError("The route changes too often to pay for it.", code=ErrorCode.UNPAID)

    async def _ask(self, plan: RoutePlan, *, funded_tokens: int, drafted_tokens: int) -> RoutePlan:
        """What the marketplace grants, once it answers."""
        now_s, delay_s = asyncio.get_running_loop().time, ASK_AGAIN_S
        until_s = now_s() + self._outage_max_s
        while True:
            try:
                return await self._router.extend(
                    plan, self._request, funded_tokens=funded_tokens, drafted_tokens=drafted_tokens
                )
            except (MarketRefused, MarketUnreachable) as error:
                if not error.may_pass or now_s() + delay_s > until_s:
                    raise
                logger.info("the marketplace is asked again for an instalment: %s", error)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, ASK_AGAIN_MAX_S)

    def _share(self, plan: RoutePlan, tokens: int) -> int:
        """Rows in vain that come with an instalment: as many for a token as at the beginning."""
        first = self._request.funded_tokens
        if not first or not plan.spare_rows:
            return 0
        return tokens * self._request.drafted_tokens // first

    async def _tell(self, granted: RoutePlan) -> bool:
        """Whether every hop has confirmed it; False where a repair came between."""
        async with self._lock:
            session = self._session()
            if session.plan.epoch != granted.epoch or session.lost:
                return False
            extended = await session.tell_extension(granted)
        try:
            async with asyncio.timeout(EXTEND_TIMEOUT_S):
                return await asyncio.shield(extended)
        except TimeoutError:
            raise SessionError(
                "Not every hop has confirmed its extended lease.", code=ErrorCode.UNPAID
            ) from None


def _unfunded(error: BaseException) -> BaseException:
    """What ends an answer cleanly; what is a bug, or a cancellation, stays what it is."""
    match error:
        case MarketRefused():
            return AnswerUnfunded(str(error), error.code)
        case MarketUnreachable():
            return AnswerUnfunded(str(error), "marketplace_unreachable")
        case SessionError() | VerificationError():
            return AnswerUnfunded(str(error), "payment_unconfirmed")
        case _:
            return error
