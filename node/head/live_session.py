"""A session that outlives its hops: what repairs are tried, in which order, and when it is enough.

a hop is lost ──► its standby, or whom the router finds, takes its place: the rest keeps its rows
             └──► nobody can: a wholly new route, brought up from the head's own tokens
                             └──► none yet: wait for one, as long as REPAIR_TIMEOUT_S lasts
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.errors import MarketRefused, MarketUnreachable
from node.head.absent import AbsentPeers
from node.head.drafting.flight import Funding
from node.head.instalments import Instalments
from node.head.record import SessionRecord
from node.head.session import RouteSession
from node.router.base import RoutePlan, Router, RouteRequest
from protocol.errors import ErrorCode, HopFailed, NoRoute, SessionError
from protocol.frame import Opened, Result, StepKind
from protocol.identity import PeerId
from protocol.route import Route
from protocol.session import REPAIR_TIMEOUT_S, REPAIRS_MAX
from protocol.tensor import WireDtype
from transport.base import PathKind

__all__ = ["LiveSession", "RouteTrace"]

NO_ROUTE_WAIT_S = 0.25
NO_ROUTE_WAIT_MAX_S = 2.0
"""Between two searches for a route: doubling, for a house may have to load layers first."""
HOLD_S = 3.0
"""So long what is left of a route is kept; then its hops are let go, for they may be what stands in
the way: a machine that is to hold other layers first lets its sessions end."""
_BEYOND_REPAIR = frozenset((ErrorCode.UNPAID, ErrorCode.CANCELLED, ErrorCode.CONTEXT_TOO_LONG))
"""What another hop would say as well."""

logger = logging.getLogger(__name__)

Renew = Callable[[RoutePlan, SessionRecord, int, int], RouteSession]
"""(plan, record, epoch, resume): a session that goes on with the record over another route."""


@dataclass(frozen=True, slots=True)
class RouteTrace:
    """A route that the session has run on, as it stood once open."""

    plan: RoutePlan
    opened: tuple[Opened, ...]
    head_path_kind: str


class LiveSession:
    """One answer's session, whatever happens to its hops. The interface is RouteSession's."""

    def __init__(
        self,
        session: RouteSession,
        router: Router,
        request: RouteRequest,
        renew: Renew,
        absent: AbsentPeers | None = None,
    ) -> None:
        """`absent`: what the head's other answers have found out, and will be told."""
        self.traces: list[RouteTrace] = []
        """Every route so far: who has seen this request."""
        self.repairs = 0
        self.stalls_s: list[float] = []
        """How long each repair took, from the failure to the steps being under way again."""
        self._session = session
        self._router = router
        self._request = request
        self._renew = renew
        self._denied: tuple[PeerId, ...] = request.deny
        self._absent = absent or AbsentPeers()
        self._is_retired = False
        """Whether the present session's route has been let go, and no other is found yet."""
        self._retiring: list[asyncio.Task[None]] = []
        self._lock = asyncio.Lock()
        """A repair and what is sent go one after the other: one may wait for a result and send."""
        self._instalments = Instalments(
            router, request, lambda: self._session, self._lock, self._mend
        )

    @property
    def plan(self) -> RoutePlan:
        return self._session.plan

    @property
    def loops(self) -> bool:
        """Whether the last hop can feed hop 0 by itself."""
        return not self._session.plan.route.sealed

    @property
    def is_near(self) -> bool:
        """Whether every link of the route is on a LAN."""
        trace = self.traces[-1]
        kinds = {trace.head_path_kind, *(opened.path_kind for opened in trace.opened)}
        return kinds == {PathKind.LAN}

    @property
    def spare_rows(self) -> int | None:
        """Rows that may run in vain; None where they cost nobody money."""
        return self._session.plan.spare_rows

    @property
    def funding(self) -> Funding:
        """What of the answer is paid for now."""
        return self._instalments.funding

    @property
    def position(self) -> int:
        return self._session.position

    @property
    def in_flight(self) -> int:
        return self._session.in_flight

    @property
    def cached_tokens(self) -> int:
        return self._session.cached_tokens

    async def open(self) -> None:
        """Open the first route. Raises HopFailed: before the first token another is as good."""
        await self._session.open()
        self._trace()

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
        """As RouteSession.send_step. Raises AnswerUnfunded where the rows are not paid for."""
        await self._instalments.wait_for(self.position + len(tokens))
        async with self._lock:
            await self._session.send_step(
                kind, payload, tokens=tokens, wanted=wanted, dtype=dtype, loop=loop
            )
        self._instalments.look_ahead(self.position)

    async def receive_result(self) -> Result:
        """The next step's result, after as many repairs as it takes.

        Raises the last HopFailed after REPAIRS_MAX repairs or REPAIR_TIMEOUT_S, and what the
        router raises where a repair cannot be paid for.
        """
        while True:
            try:
                result = await self._session.receive_result()
                self._instalments.look_ahead(self.position)  # a loop sends nothing for long
                return result
            except HopFailed as error:
                async with self._lock:
                    if self._session.lost:  # else somebody was first
                        await self._repair(error)

    async def _mend(self) -> None:
        """Repair the route where it is broken and nobody waits for a result of it."""
        async with self._lock:
            if lost := self._session.lost:
                index = min(lost)
                peer = self._session.plan.route.hops[index].peer_id.short
                await self._repair(HopFailed(index, peer, ErrorCode.PEER_GONE, "it is lost"))

    async def truncate(self, position: int) -> None:
        """As RouteSession.truncate."""
        async with self._lock:
            await self._session.truncate(position)

    async def close(self, *, cancelled: bool) -> None:
        """As RouteSession.close."""
        await self._instalments.close()
        if not self._is_retired:
            await self._session.close(cancelled=cancelled)

    async def settle(self) -> None:
        """As RouteSession.settle, for every route there was."""
        last = [] if self._is_retired else [self._session.settle()]
        await asyncio.gather(*last, *self._retiring, return_exceptions=True)

    async def _repair(self, error: HopFailed) -> None:
        started_s = time.monotonic()
        failed = error
        try:
            async with asyncio.timeout(REPAIR_TIMEOUT_S):
                while True:
                    if failed.code in _BEYOND_REPAIR or self.repairs >= REPAIRS_MAX:
                        raise failed
                    self.repairs += 1
                    try:
                        await self._replace_lost()
                        break
                    except HopFailed as again:
                        failed = again
        except TimeoutError:
            raise SessionError(
                f"{failed.message}, and nobody took its place within {REPAIR_TIMEOUT_S:.0f} s.",
                code=ErrorCode.TIMED_OUT,
                hint="Ask again: the answer so far is all there is.",
            ) from None
        self.stalls_s.append(time.monotonic() - started_s)
        self._trace()
        logger.info("repaired in %.2f s after: %s", self.stalls_s[-1], error)

    async def _replace_lost(self) -> None:
        """One attempt with whoever can be found; waits while nobody can. Raises HopFailed."""
        wait_s, waited_s = NO_ROUTE_WAIT_S, 0.0
        lost = self._session.lost
        hops = self._session.plan.route.hops
        now_s = time.monotonic()
        for index in lost:
            self._absent.note(hops[index].peer_id, now_s)
        self._denied += tuple(hops[index].peer_id for index in lost) + self._absent.now(now_s)
        while not (await self._replace_in_place(lost) or await self._begin_anew()):
            if waited_s >= HOLD_S:
                self._retire()
            self._denied = self._request.deny  # those that failed may be back
            await asyncio.sleep(wait_s)
            waited_s += wait_s
            wait_s = min(2 * wait_s, NO_ROUTE_WAIT_MAX_S)

    async def _replace_in_place(self, lost: frozenset[int]) -> bool:
        """Others for the hops that are lost; False where nobody can take their places."""
        session = self._session
        if self._is_retired or not session.is_standing or len(lost) == len(session.plan.route.hops):
            return False
        try:
            plan = self._from_standbys(lost) or await self._find(lost)
        except NoRoute as error:
            logger.info("nobody for the place: %s", error)
            return False
        await session.repair(plan, lost)
        return True

    async def _begin_anew(self) -> bool:
        """A wholly new route; what is left of the old one is freed and settled beside."""
        old = self._session
        try:
            plan = await self._find(frozenset(range(len(old.plan.route.hops))))
        except NoRoute as error:
            logger.info("no route yet: %s", error)
            return False
        self._retire()
        self._session = self._renew(plan, old.record, old.epoch + 1, old.rows_arrived)
        self._is_retired = False
        await self._session.open()
        return True

    def _retire(self) -> None:
        """Let go of what is left of a route, once."""
        if not self._is_retired:
            self._is_retired = True
            self._retiring.append(asyncio.create_task(_retire(self._session)))

    async def _find(self, lost: frozenset[int]) -> RoutePlan:
        """Raises NoRoute. A marketplace that is away is asked until the repair's time is over: the
        very same again, for it may have granted what it could not answer."""
        request = dataclasses.replace(self._request, deny=self._denied)
        plan, rows, wait_s = self._session.plan, self._session.rows_arrived, NO_ROUTE_WAIT_S
        while True:
            try:
                return await self._router.replace(plan, lost, request, rows=rows)
            except (MarketRefused, MarketUnreachable) as error:
                if not error.may_pass:
                    raise
                logger.warning("a repair waits for the marketplace: %s", error)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, NO_ROUTE_WAIT_MAX_S)

    def _from_standbys(self, lost: frozenset[int]) -> RoutePlan | None:
        """The plan with every lost hop's standby in its place, where nobody has to be asked."""
        plan, standbys = self._session.plan, self._session.standbys
        if plan.leases or not all(index in standbys for index in lost):
            return None
        hops = [
            dataclasses.replace(standbys[index], span=hop.span) if index in lost else hop
            for index, hop in enumerate(plan.route.hops)
        ]
        route = Route.of(plan.route.model, plan.route.layers, hops, sealed=plan.route.sealed)
        return dataclasses.replace(plan, route=route)

    def _trace(self) -> None:
        session = self._session
        self.traces.append(RouteTrace(session.plan, session.opened, session.head_path_kind))


async def _retire(session: RouteSession) -> None:
    await session.close(cancelled=True)
    await session.settle()
