"""A session's I/O at its head: one stream to every hop, steps out, results in, receipts paid.

One reader task a hop; results come on the last hop's stream, in the order of the steps. Any failure
of any hop ends the session once, with the first cause.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence

from node.head.opening import Opening
from node.head.payer import Payer
from node.head.prefix import Prefix
from node.router.base import RoutePlan
from protocol.errors import ErrorCode, HopFailed, PieceworkError, RemoteProtocolError, SessionError
from protocol.frame import (
    PROTOCOL,
    Ack,
    ErrorFrame,
    Frame,
    Meter,
    Opened,
    ReceiptFrame,
    Result,
    Step,
    StepKind,
    decode_frame,
    encode_frame,
)
from protocol.head_session import HeadSession
from protocol.model import ModelManifest
from protocol.route import Hop
from protocol.sampling import SamplingParameters
from protocol.session import CLOSE_TIMEOUT_S, OPEN_TIMEOUT_S, STEP_TIMEOUT_S, SessionState
from protocol.tensor import WireDtype, payload_hash
from transport.address import known_addresses
from transport.base import Host, Stream
from transport.errors import TransportError

__all__ = ["RouteSession"]

logger = logging.getLogger(__name__)


class RouteSession:
    """One route, open. Made by `open`; one caller steps it; `close` and `settle` in every case."""

    def __init__(
        self,
        host: Host,
        plan: RoutePlan,
        manifest: ModelManifest,
        *,
        wire_dtype: WireDtype,
        capacity_tokens: int,
        sampling: SamplingParameters,
        prefix: Prefix | None = None,
    ) -> None:
        self.plan = plan
        self._host = host
        self._manifest = manifest
        self._prefix = prefix
        offered = prefix.offered if prefix else ()
        self._opening = Opening(
            plan, host.peer_id, manifest.manifest_hash, wire_dtype, capacity_tokens, sampling,
            offered,
        )  # fmt: skip
        self._payer = Payer(plan.payer_key, plan.leases) if plan.payer_key else None
        self._session = HeadSession(
            plan.session_id,
            plan.route,
            hidden_size=manifest.hidden_size,
            wire_dtype=wire_dtype,
            metered=self._payer is not None,
            prefix_blocks=len(offered),
        )
        self._streams: dict[int, Stream] = {}
        self._readers: list[asyncio.Task[None]] = []
        self._gone: set[int] = set()
        """Hops whose stream has ended."""
        self._send_locks = [asyncio.Lock() for _ in plan.route.hops]
        self._pay_lock = asyncio.Lock()
        self._results: deque[Result] = deque()
        self._changed = asyncio.Event()
        self._failure: PieceworkError | None = None

    @property
    def opened(self) -> tuple[Opened, ...]:
        """What each hop said of itself, in the route's order."""
        return self._session.opened

    @property
    def position(self) -> int:
        return self._session.position

    @property
    def cached_tokens(self) -> int:
        """Rows that every hop had from an earlier session: the first step begins behind them."""
        return self._session.cached_tokens

    @property
    def head_path_kind(self) -> str:
        """PathKind of the head's own link to hop 0."""
        return str(self._streams[0].path_kind)

    async def open(self) -> None:
        """Open every hop at once. Raises HopFailed; `close` is still the caller's to call."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await asyncio.gather(
                    *(self._open_hop(index, hop) for index, hop in enumerate(self._hops))
                )
                while self._session.state is SessionState.OPENING:
                    await self._wait_change()
                if (truncate := self._session.align()) is not None:
                    await self._send(0, truncate)
        except TimeoutError:
            silent = next(i for i in range(len(self._hops)) if not self._has_opened(i))
            raise self._hop_failed(silent, ErrorCode.TIMED_OUT, "it did not open in time") from None

    async def send_step(
        self,
        kind: StepKind,
        payload: bytes,
        *,
        tokens: Sequence[int],
        wanted: int,
        dtype: WireDtype | None,
    ) -> None:
        """Send the rows of `tokens` round; the result comes by `receive_result`, in order."""
        self._raise_failure()
        digest = payload_hash(payload)
        ticket = self._session.send_step(kind, len(tokens), wanted, digest)
        if self._prefix is not None:
            self._prefix.record(ticket.position, tokens)
        step = Step(
            self._session.session_id, self._session.epoch, kind, ticket.position, ticket.count,
            wanted, dtype, self._manifest.hidden_size if dtype else 0, payload, digest,
        )  # fmt: skip
        await self._send(0, step)

    async def receive_result(self) -> Result:
        """The next step's result. Raises HopFailed or SessionError; waits STEP_TIMEOUT_S."""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                while not self._results:
                    self._raise_failure()
                    await self._wait_change()
                return self._results.popleft()
        except TimeoutError:
            raise SessionError(
                "No result came round the route in time.", code=ErrorCode.TIMED_OUT
            ) from None

    async def truncate(self, position: int) -> None:
        """Forget rows at every hop; only with nothing on its way."""
        await self._send(0, self._session.send_truncate(position))

    async def close(self, *, cancelled: bool) -> None:
        """Tell every hop that it is over, so that it frees its KV. Never raises; call once."""
        if self._session.state in (SessionState.OPENING, SessionState.READY):
            frame = self._session.close(cancelled=cancelled, keep=self._kept())
            living = self._streams.keys() - self._gone
            await asyncio.gather(
                *(self._send(index, frame) for index in living), return_exceptions=True
            )

    async def settle(self) -> None:
        """After `close`: pay what is due, and let go. Never raises; bounded in time."""
        if self._payer is not None and self._session.state is SessionState.CLOSING:
            await self._settle(self._payer)
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for stream in self._streams.values():
            with contextlib.suppress(TransportError):
                stream.finish()

    def _kept(self) -> tuple[bytes, ...]:
        """What hops may keep: nothing of a session that failed, for who knows from when on."""
        if self._prefix is None or self._failure is not None:
            return ()
        return self._prefix.kept(self._session.rows_arrived)

    async def _settle(self, payer: Payer) -> None:
        """Sign the last receipts of every hop that is still there, and wait for their names."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while not all(payer.is_settled(i) for i in self._streams.keys() - self._gone):
                    await self._pay()
                    await self._wait_change()
            self._session.settled()
        except (PieceworkError, TimeoutError) as error:
            logger.warning("the last receipts are not all countersigned: %s", error)

    @property
    def _hops(self) -> Sequence[Hop]:
        return self.plan.route.hops

    def _has_opened(self, index: int) -> bool:
        return any(opened.hop_index == index for opened in self._session.opened)

    async def _open_hop(self, index: int, hop: Hop) -> None:
        try:
            addresses = known_addresses(hop.addresses)
            connection = await self._host.connect(hop.peer_id, addresses, timeout_s=OPEN_TIMEOUT_S)
            self._streams[index] = await connection.open_stream(PROTOCOL)
            await self._send(index, self._opening.frame(index))
        except TransportError as error:
            raise self._hop_failed(index, ErrorCode.PEER_GONE, error.message) from error
        self._readers.append(asyncio.create_task(self._read(index)))

    async def _read(self, index: int) -> None:
        """Take one hop's frames until its stream ends; keep the session's first failure."""
        stream = self._streams[index]
        try:
            while (data := await stream.receive()) is not None:
                frame = decode_frame(data)
                if frame is not None:
                    await self._take(index, frame)
                self._changed.set()
            self._fail(self._hop_failed(index, ErrorCode.PEER_GONE, "it closed the stream"))
        except HopFailed as error:
            self._fail(error)
        except TransportError as error:
            self._fail(self._hop_failed(index, ErrorCode.PEER_GONE, error.message))
        except PieceworkError as error:
            self._fail(self._hop_failed(index, ErrorCode.MALFORMED, error.message))
        finally:
            self._gone.add(index)
            self._changed.set()

    async def _take(self, index: int, frame: Frame) -> None:
        match frame:
            case Opened():
                self._session.accept_opened(index, frame)
            case Result() if index == len(self._hops) - 1:
                if self._session.accept_result(frame) is not None:
                    self._results.append(frame)
                await self._pay()
            case Meter():
                self._session.accept_meter(index, frame)
                await self._pay()
            case Ack() if self._payer is not None:
                self._payer.acknowledge(index, frame.sequence, frame.countersignature)
            case ErrorFrame():
                raise self._hop_failed(self._to_blame(index, frame), frame.code, frame.message)
            case _:
                raise RemoteProtocolError(f"A hop does not send {type(frame).__name__}.")

    async def _pay(self) -> None:
        """Sign what is payable now, and send each hop its receipt, in order."""
        if self._payer is None:
            return
        async with self._pay_lock:
            closing = self._session.state is SessionState.CLOSING
            for hop_index, meter in self._session.payable(gone=self._gone if closing else set()):
                receipt = self._payer.sign(hop_index, meter)
                await self._send(hop_index, ReceiptFrame(self._session.session_id, receipt))

    async def _send(self, index: int, frame: Frame) -> None:
        try:
            async with self._send_locks[index]:
                await self._streams[index].send(*encode_frame(frame))
        except TransportError as error:
            raise self._hop_failed(index, ErrorCode.PEER_GONE, error.message) from error

    async def _wait_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()
        if self._session.state is SessionState.OPENING:
            self._raise_failure()

    def _fail(self, error: PieceworkError) -> None:
        closing = self._session.state in (SessionState.CLOSING, SessionState.CLOSED)
        if self._failure is None and not closing:
            self._failure = error
            logger.info("session failed: %s", error)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _to_blame(self, index: int, frame: ErrorFrame) -> int:
        """A hop may name a neighbour as the one that was lost, and nobody else."""
        for neighbour in (index - 1, index + 1):
            if 0 <= neighbour < len(self._hops) and self._hops[neighbour].peer_id == frame.about:
                return neighbour
        return index

    def _hop_failed(self, index: int, code: ErrorCode, reason: str) -> HopFailed:
        return HopFailed(index, self._hops[index].peer_id.short, code, reason)
