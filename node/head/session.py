"""A session's I/O at its head: steps out, results in, receipts paid, one epoch after another.

Results come on the last hop's stream, in the order of the steps. When a hop is lost the steps under
way are kept, and `repair` takes the session to its next epoch with another hop in that place: what
is under way is then sent again. Who decides on repairs is `live_session.py`.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from node.head.ends import Ends
from node.head.extension import Extension
from node.head.feed import Feed
from node.head.hops import RouteHops
from node.head.opening import Opening, Resumption
from node.head.payer import Payer
from node.head.prefix import Prefix
from node.head.receipts import Receipts
from node.head.record import SentStep, SessionRecord
from node.head.standbys import Standbys
from node.router.base import RoutePlan
from protocol.errors import ErrorCode, HopFailed, RemoteProtocolError, SessionError
from protocol.frame import Ack, Extended, Frame, Meter, Opened, Result, StepKind
from protocol.head_session import HeadSession
from protocol.model import ModelManifest
from protocol.route import Hop
from protocol.sampling import SamplingParameters
from protocol.session import OPEN_TIMEOUT_S, STEP_TIMEOUT_S, SessionState
from protocol.tensor import WireDtype
from transport.base import Host

__all__ = ["RouteSession"]

REPAIR_OPEN_TIMEOUT_S = 6.0
"""From the OPENs of a repair until every hop has its links: silent hops are found out sooner."""

_OVER = (SessionState.CLOSING, SessionState.CLOSED, SessionState.FAILED)


class RouteSession:
    """One route, open. Made by `open`; one caller steps it; `close` and `settle` in every case."""

    def __init__(
        self,
        host: Host,
        plan: RoutePlan,
        manifest: ModelManifest,
        ends: Ends,
        *,
        wire_dtype: WireDtype,
        capacity_tokens: int,
        sampling: SamplingParameters,
        eos: Collection[int] = (),
        prefix: Prefix | None = None,
        record: SessionRecord | None = None,
        epoch: int = 0,
        resume: int = 0,
    ) -> None:
        """`record`, `epoch` and `resume`: of a session whose route is beyond repair, to go on."""
        self._prefix = prefix
        offered = prefix.offered if prefix else ()
        self._session = HeadSession(
            plan.session_id,
            plan.route,
            hidden_size=manifest.hidden_size,
            wire_dtype=wire_dtype,
            metered=plan.payer_key is not None,
            prefix_blocks=len(offered),
            epoch=epoch,
            resume=resume,
            funded_rows=plan.funded_rows,
        )
        self.record = record or SessionRecord()
        self._feed = Feed(
            self._session, self.record, ends, prefix, hidden_size=manifest.hidden_size
        )
        self._standbys = Standbys(host, plan.standbys, self._feed.replay)
        opening = Opening(
            host.peer_id, manifest.manifest_hash, wire_dtype, capacity_tokens, sampling,
            tuple(eos), offered,
        )  # fmt: skip
        self._hops = RouteHops(
            host, plan, self._session, opening, self._standbys,
            row_bytes=wire_dtype.row_bytes(manifest.hidden_size), take=self._take,
        )  # fmt: skip
        self._receipts: Receipts | None = None
        if plan.payer_key is not None:
            payer = Payer(plan.payer_key, plan.leases)
            self._receipts = Receipts(self._session, self._hops, payer)
        self._extension = Extension(self._session, self._hops, self._receipts)

    @property
    def plan(self) -> RoutePlan:
        """The route as it is now."""
        return self._hops.plan

    @property
    def opened(self) -> tuple[Opened, ...]:
        """What each hop said of itself, in the route's order."""
        return self._session.opened

    @property
    def lost(self) -> frozenset[int]:
        """Hops that this epoch has lost."""
        return frozenset(self._hops.lost)

    @property
    def epoch(self) -> int:
        return self._session.epoch

    @property
    def is_standing(self) -> bool:
        """Whether the route has ever been open: only then can hops of it be replaced."""
        return self._session.state is not SessionState.OPENING

    @property
    def standbys(self) -> dict[int, Hop]:
        """Who could take a hop's place at once."""
        return dict(self._standbys.hops)

    @property
    def position(self) -> int:
        """Where the next step begins."""
        return self._session.position

    @property
    def in_flight(self) -> int:
        """Steps that are not back, void ones too."""
        return self._session.in_flight

    @property
    def rows_arrived(self) -> int:
        """Leading rows whose results are here: what a repair begins with."""
        return self._session.rows_arrived

    @property
    def funded_rows(self) -> int | None:
        """Rows that every hop has confirmed to be paid for; None: all."""
        return self._session.funded_rows

    @property
    def cached_tokens(self) -> int:
        """Rows that every hop had from an earlier session: the first step begins behind them."""
        return self._session.cached_tokens

    @property
    def head_path_kind(self) -> str:
        """PathKind of the head's own link to hop 0."""
        return self._hops.lines[0].path_kind

    async def open(self) -> None:
        """Open every hop at once. Raises HopFailed; `close` is still the caller's to call."""
        timeout_s = OPEN_TIMEOUT_S if self.epoch == 0 else REPAIR_OPEN_TIMEOUT_S
        everyone = frozenset(range(len(self.plan.route.hops)))
        await self._hops.open(self._resumption(0), everyone, timeout_s=timeout_s)
        if (truncate := self._session.align()) is not None:
            await self._hops.tell_rows(truncate)
        if self.epoch > 0:
            await self._feed.bring_up(self._hops, self._standbys)

    async def repair(self, plan: RoutePlan, lost: frozenset[int]) -> None:
        """Take the session to its next epoch, over `plan`: others in the places of `lost`.

        Raises HopFailed when a hop of it fails in turn; then repair again.
        """
        await self._next_epoch(plan, lost, frozenset())
        while unable := self._session.unable():
            if plan.leases:
                raise self._give_up(unable)
            await self._next_epoch(plan, frozenset(), unable)
        await self._feed.bring_up(self._hops, self._standbys)

    async def tell_extension(self, plan: RoutePlan) -> asyncio.Future[bool]:
        """Send every hop its lease of `plan`, the present one with more paid for.

        The future says True when all have confirmed it, False where a repair or the end came first.
        """
        return await self._extension.tell(plan)

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
        """Send the rows of `tokens` round; the result comes by `receive_result`, in order.

        A hop that fails is told there: the step is kept, and sent again after a repair.
        """
        if self._hops.failure is not None:
            raise self._hops.failure
        step = SentStep(kind, payload, tuple(tokens), wanted, dtype, loop)
        await self._feed.launch(step, self._hops, self._standbys)

    async def receive_result(self) -> Result:
        """The next step's result. Raises HopFailed or SessionError; waits STEP_TIMEOUT_S."""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                while not self.record.results:
                    self._hops.raise_failure()
                    await self._hops.wait_change()
                return self.record.results.popleft()
        except TimeoutError:
            raise SessionError(
                "No result came round the route in time.", code=ErrorCode.TIMED_OUT
            ) from None

    async def truncate(self, position: int) -> None:
        """Forget rows at every hop. Steps under way behind `position` are void."""
        frame = self._session.send_truncate(position)
        self.record.took_back(position)
        self._standbys.took_back(frame)
        await self._hops.tell_rows(frame)

    async def close(self, *, cancelled: bool) -> None:
        """Tell every hop that it is over, so that it frees its KV. Never raises; call once."""
        self._extension.drop()
        self._hops.stop_watching()
        if self._session.state in _OVER:
            return
        frame = self._session.close(cancelled=cancelled, keep=self._kept())
        await asyncio.gather(
            self._standbys.close(replace(frame, keep=())),
            *(self._hops.tell(index, frame) for index in self._hops.living),
            return_exceptions=True,
        )

    async def settle(self) -> None:
        """After `close`: pay what is due, and let go. Never raises; bounded in time."""
        if self._receipts is not None:
            await self._receipts.settle()
        await self._hops.stop()
        await self._standbys.stop()

    def _resumption(self, steps: int, forget: frozenset[int] = frozenset()) -> Resumption:
        resume = self._session.rows_arrived
        return Resumption(self.epoch, resume, steps, forget, self.record.drawn(resume))

    def _give_up(self, unable: frozenset[int]) -> HopFailed:
        """Hops that would have to run all rows again, for which their leases have no room."""
        for index in unable:
            self._hops.lose(index, ErrorCode.NO_CAPACITY, "it has not kept what it sent on")
        return next(iter(self._hops.lost.values()))

    async def _next_epoch(
        self, plan: RoutePlan, lost: frozenset[int], forget: frozenset[int]
    ) -> None:
        self._extension.drop()
        steps = self._session.repair(plan.route, lost)
        self._hops.replace(plan, lost)
        self._standbys.adopt(plan.standbys)
        if self._receipts is not None:
            self._receipts.replace(lost)
        at = self._resumption(steps, forget)
        await self._hops.open(at, lost, timeout_s=REPAIR_OPEN_TIMEOUT_S)

    async def _take(self, index: int, frame: Frame) -> None:
        match frame:
            case Result() if index == len(self.plan.route.hops) - 1:
                self._take_result(frame)
                if self._receipts is not None:
                    await self._receipts.pay()
            case Meter() if self._receipts is not None:
                await self._receipts.take_meter(index, frame)
            case Ack() if self._receipts is not None:
                self._receipts.take_ack(index, frame)
            case Extended():
                self._extension.take(index, frame)
            case _:
                raise RemoteProtocolError(f"A hop does not send {type(frame).__name__} here.")

    def _take_result(self, frame: Result) -> None:
        is_current = frame.epoch == self._session.epoch
        ticket = self._session.accept_result(frame)
        if is_current:
            self._hops.watch.arrived(
                time.monotonic(),
                still_waiting=self._session.in_flight > 0,
                rows=frame.position + frame.count,
                is_measured=frame.kind is not StepKind.PREFILL,
            )
        if ticket is None:
            return
        self.record.arrived(ticket.position)
        if frame.loop:
            self._feed.follow(ticket.loop, frame, self._standbys)
        self.record.results.append(frame)

    def _kept(self) -> tuple[bytes, ...]:
        """What hops may keep: nothing once a hop was lost, for its rows are not who it named."""
        if self._prefix is None or self._hops.lost or self.epoch > 0 or self._hops.failure:
            return ()
        return self._prefix.kept(self._session.rows_arrived)
