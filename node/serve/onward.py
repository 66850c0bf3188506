"""Where a hop's rows go in one epoch: to the next hop, to the head, or, of a standby, nowhere."""

import asyncio
from dataclasses import dataclass

from node.serve.codes import gone
from node.serve.hop_state import HopState
from node.serve.links import Link
from protocol.errors import ErrorCode, RemoteProtocolError
from protocol.frame import (
    PROTOCOL,
    Attach,
    LinkRole,
    Opened,
    Replay,
    Result,
    Step,
    Truncate,
    decode_frame,
    encode_frame,
)
from protocol.identity import PeerId
from protocol.session import OPEN_TIMEOUT_S
from transport.address import known_addresses
from transport.base import Host
from transport.errors import TransportError

__all__ = ["Onward", "attach_onward", "dial_link"]


@dataclass(slots=True)
class Onward:
    """The links that this hop sends on. Without `link`: the last hop, or a standby."""

    state: HopState
    link: Link | None = None
    rows: int = 0
    """Rows that the next hop has, of those before `resume`."""
    loop: Link | None = None
    """From the last hop of an open route to hop 0."""

    @property
    def feeds_itself(self) -> bool:
        """Whether this hop is the whole of an open route, and so both ends of its loop."""
        request = self.state.request
        return request.hop_count == 1 and not request.standby

    async def send(self, frame: Step | Result | Replay | Truncate) -> None:
        """On to the next hop, or to the head, which needs no TRUNCATE. Raises NeighbourGone."""
        if self.link is not None:
            await self.link.send(frame)
        elif isinstance(frame, Result):
            await self.state.head.send(frame)

    def end(self, *, is_void: bool) -> None:
        for link in (self.link, self.loop):
            if link is not None:
                link.end(is_void=is_void)


async def attach_onward(state: HopState, rows: int) -> Onward:
    """Dial what this hop, which has `rows`, sends on, as its OPEN says. Raises NeighbourGone."""
    request = state.request
    onward = Onward(state, rows=rows)
    state.path_kind = state.head.path_kind
    if request.standby:
        return onward
    if not request.is_last:
        attach = Attach(request.session_id, request.epoch, request.hop_index + 1)
        onward.link, onward.rows = await dial_link(
            state.parts.host, request.next, request.next_addresses, attach
        )
        state.path_kind = onward.link.path_kind
        if request.epoch > 0 and onward.rows > request.resume:
            onward.end(is_void=True)
            raise gone(request.next, "it claims rows that there are not.", ErrorCode.MALFORMED)
    elif request.loop is not None and request.hop_count > 1:
        attach = Attach(request.session_id, request.epoch, 0, LinkRole.LOOP)
        onward.loop, _ = await dial_link(
            state.parts.host, request.loop, request.loop_addresses, attach
        )
    return onward


async def dial_link(
    host: Host, peer: PeerId, addresses: tuple[str, ...], attach: Attach
) -> tuple[Link, int]:
    """A link to `peer`, which has taken it, and how many rows it has. Raises NeighbourGone."""
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            return await _dial(host, peer, addresses, attach)
    except TimeoutError:
        raise gone(peer, "it did not take the link in time.", ErrorCode.TIMED_OUT) from None
    except TransportError as error:
        raise gone(peer, error.message) from error
    except RemoteProtocolError as error:
        raise gone(peer, error.message, ErrorCode.MALFORMED) from error


async def _dial(
    host: Host, peer: PeerId, addresses: tuple[str, ...], attach: Attach
) -> tuple[Link, int]:
    connection = await host.connect(peer, known_addresses(addresses), timeout_s=OPEN_TIMEOUT_S)
    stream = await connection.open_stream(PROTOCOL)
    try:
        await stream.send(*encode_frame(attach))
        data = await stream.receive()
        if data is None:
            raise gone(peer, "it did not take the link.")
        answer = decode_frame(data)
        expected = (attach.session_id, attach.epoch, attach.hop_index)
        if not isinstance(answer, Opened) or expected != (
            answer.session_id, answer.epoch, answer.hop_index,
        ):  # fmt: skip
            raise RemoteProtocolError("It answered ATTACH with something else.")
    except BaseException:
        stream.reset(ErrorCode.CANCELLED)
        raise
    return Link(stream), answer.cached_tokens
