"""The client-star, to compare with: every step goes from the client to a hop and back, hop by hop.

It talks to the same servers over the same connections: each hop is opened as a route of its own,
whose RESULT comes straight back. To the caller it is a session as any other, and steps may follow
one another, so that a prompt's chunks fill all hops here too.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence

from node.head.row_link import RowLink
from protocol.errors import ErrorCode, HopFailed, LocalProtocolError
from protocol.frame import (
    PROTOCOL,
    Attach,
    Close,
    ErrorFrame,
    Open,
    Opened,
    Result,
    Step,
    StepKind,
    decode_frame,
    encode_frame,
)
from protocol.model import ModelManifest
from protocol.route import Hop, Route
from protocol.session import OPEN_TIMEOUT_S, STEP_TIMEOUT_S
from protocol.tensor import WireDtype, payload_hash
from transport.address import known_addresses
from transport.base import Host, Stream
from transport.errors import TransportError

__all__ = ["StarSession"]


class StarSession:
    """As RouteSession, for one who holds both ends: `open`, steps, `close`, `settle`."""

    def __init__(
        self,
        host: Host,
        route: Route,
        manifest: ModelManifest,
        *,
        wire_dtype: WireDtype,
        capacity_tokens: int,
    ) -> None:
        self.position = 0
        self.cached_tokens = 0
        self.in_flight = 0
        self._host = host
        self._route = route
        self._manifest = manifest
        self._wire_dtype = wire_dtype
        self._capacity_tokens = capacity_tokens
        self._ids = [os.urandom(16) for _ in route.hops]
        self._streams: list[Stream] = []
        self._rows: list[RowLink] = []
        self._wanted: asyncio.Queue[int] = asyncio.Queue()
        """Of the steps under way, in order: the rows that the last hop is to give."""
        self._results: asyncio.Queue[Result | Exception] = asyncio.Queue()
        self._readers: list[asyncio.Task[None]] = []
        self._steps = 0

    async def open(self) -> None:
        """Open every hop at once."""
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            hops = enumerate(self._route.hops)
            opened = await asyncio.gather(*(self._open_hop(k, hop) for k, hop in hops))
        self._streams = [stream for stream, _ in opened]
        self._rows = [rows for _, rows in opened]
        self._readers = [asyncio.create_task(self._read(k)) for k in range(len(self._streams))]

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
        """Send the rows of `tokens` to the first hop; the rest happens as results come back."""
        if dtype is not self._wire_dtype or loop:
            raise LocalProtocolError("A star's client holds both ends.")
        await self._wanted.put(wanted)
        self.in_flight += 1
        step = self._step(0, kind, self.position, len(tokens), wanted, payload)
        self.position += len(tokens)
        await self._rows[0].send(step)

    async def receive_result(self) -> Result:
        """The next step's rows from the last hop."""
        async with asyncio.timeout(STEP_TIMEOUT_S):
            result = await self._results.get()
        if isinstance(result, Exception):
            raise result
        self.in_flight -= 1
        self._steps += 1
        return result

    async def truncate(self, position: int) -> None:
        raise LocalProtocolError("A star is measured without drafts.")

    async def close(self, *, cancelled: bool) -> None:
        for index, stream in enumerate(self._streams):
            frame = Close(self._ids[index], 0, self._steps, cancelled)
            with contextlib.suppress(TransportError):
                await stream.send(*encode_frame(frame))

    async def settle(self) -> None:
        """Nothing is paid here."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for rows, stream in zip(self._rows, self._streams, strict=True):
            rows.drop()
            with contextlib.suppress(TransportError):
                stream.finish()

    async def _open_hop(self, index: int, hop: Hop) -> tuple[Stream, RowLink]:
        """The hop's own stream, and the one for rows."""
        connection = await self._host.connect(
            hop.peer_id, known_addresses(hop.addresses), timeout_s=OPEN_TIMEOUT_S
        )
        stream = await connection.open_stream(PROTOCOL)
        request = Open(
            session_id=self._ids[index],
            epoch=0,
            hop_index=0,
            hop_count=1,
            previous=self._host.peer_id,
            next=self._host.peer_id,
            next_addresses=(),
            manifest_hash=self._manifest.manifest_hash,
            span=hop.span,
            wire_dtype=self._wire_dtype,
            sealed=True,
            capacity_tokens=self._capacity_tokens,
            sampling=None,
            lease=None,
        )
        await stream.send(*encode_frame(request))
        attach = Attach(self._ids[index], 0, 0)
        rows = await RowLink.attach(self._host, hop, attach, timeout_s=OPEN_TIMEOUT_S)
        data = await stream.receive()
        answer = decode_frame(data) if data else None
        if not isinstance(answer, Opened):
            raise self._failed(index, f"it answered {answer}")
        return stream, rows

    async def _read(self, index: int) -> None:
        """Take one hop's results and carry each to the next hop, the last one's to the caller."""
        try:
            while (data := await self._streams[index].receive()) is not None:
                match decode_frame(data):
                    case Result() as result if index + 1 == len(self._streams):
                        self._results.put_nowait(result)
                    case Result() as result:
                        await self._carry(index + 1, result)
                    case ErrorFrame() as error:
                        raise self._failed(index, error.message)
                    case _:
                        continue
            raise self._failed(index, "it closed the stream")
        except (TransportError, HopFailed) as error:
            self._results.put_nowait(error)

    async def _carry(self, index: int, result: Result) -> None:
        wanted = self._next_wanted(index)
        step = self._step(index, result.kind, result.position, result.count, wanted, result.payload)
        await self._rows[index].send(step)

    def _next_wanted(self, index: int) -> int:
        """What the caller wanted of this step, once it reaches the last hop."""
        return self._wanted.get_nowait() if index + 1 == len(self._streams) else 0

    def _step(
        self, index: int, kind: StepKind, position: int, count: int, wanted: int, payload: bytes
    ) -> Step:
        """All rows come back from every hop but the last."""
        is_last = index + 1 == len(self._streams)
        return Step(
            self._ids[index], 0, kind, position, count, wanted if is_last else count,
            self._wire_dtype, self._manifest.hidden_size, payload, payload_hash(payload),
        )  # fmt: skip

    def _failed(self, index: int, reason: str) -> HopFailed:
        peer = self._route.hops[index].peer_id.short
        return HopFailed(index, peer, ErrorCode.PEER_GONE, reason)
