"""Protocols that are spoken before the peer has agreed to them."""

import pytest
import trio
from trio.testing import MockClock

from protocol.errors import RemoteProtocolError
from transport.control.budget import ReceiveBudget
from transport.control.defects import BoundedYamux, open_muxed, read_muxed, write_muxed
from transport.control.proposal import ProposedConnection, why_not_agreed
from transport.control.settings import ControlSettings
from transport.errors import PeerGone, ProtocolNotSupported
from transport.multistream import HEADER, NOT_AVAILABLE, Initiator, encode_line

PROTOCOL = "/test/1"
AGREED = encode_line(HEADER) + encode_line(PROTOCOL)
REFUSED = encode_line(HEADER) + encode_line(NOT_AVAILABLE)


class Wire:
    """What a peer has sent, one piece after another; then nothing, or the end."""

    is_initiator = True
    heard_at_s = 0.0

    def __init__(self, *pieces, is_ended=False):
        self.sent = []
        self.buffer = b""
        self.is_closed = False
        self.send, self.receive = trio.open_memory_channel(100)
        for piece in pieces:
            self.send.send_nowait(piece)
        if is_ended:
            self.send.close()

    async def read(self, n=None):
        while len(self.buffer) < (n or 1):
            try:
                self.buffer += await self.receive.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                break
        size = len(self.buffer) if n is None else n
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    async def write(self, data):
        self.sent.append(data)

    async def close(self):
        self.is_closed = True
        self.receive.close()

    def get_remote_address(self):
        return None


def run(main):
    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_the_first_bytes_leave_with_the_proposal_before_anything_is_read():
    async def main():
        wire = Wire()
        proposed = ProposedConnection(wire, Initiator(PROTOCOL))
        await proposed.write(b"first")
        await proposed.write(b"second")
        assert wire.sent == [AGREED + b"first", b"second"]
        await proposed.close()
        assert wire.is_closed

    run(main)


@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_what_is_read_begins_behind_the_agreement(cut):
    async def main():
        said = AGREED + b"the protocol's own"
        proposed = ProposedConnection(
            Wire(*(said[i : i + cut] for i in range(0, len(said), cut))), Initiator(PROTOCOL)
        )
        assert await proposed.read(3) == b"the"
        assert await proposed.read(15) == b" protocol's own"

    run(main)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (REFUSED, ProtocolNotSupported),
        (b"\x05nonsense", RemoteProtocolError),
        (encode_line(HEADER), RemoteProtocolError),
        (b"", RemoteProtocolError),
    ],
)
def test_a_peer_that_does_not_agree_is_found_out_when_it_is_read(said, error):
    async def main():
        proposed = ProposedConnection(Wire(said, is_ended=True), Initiator(PROTOCOL))
        with pytest.raises(error):
            await proposed.read(1)

    run(main)


@pytest.mark.parametrize(
    ("pieces", "is_ended", "reason"),
    [
        ([AGREED], False, ""),
        ([REFUSED], False, "does not speak '/test/1'"),
        ([], True, "ended the connection"),
        ([encode_line(HEADER)], False, "within 10 s"),
    ],
)
def test_why_a_peer_has_not_agreed_is_said(pieces, is_ended, reason):
    async def main():
        said = await why_not_agreed(Wire(*pieces, is_ended=is_ended), Initiator(PROTOCOL), 10.0)
        assert reason in said
        assert bool(said) == bool(reason)

    run(main)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [([REFUSED], "speak"), ([b"\x05nonsense"], "line"), ([], "Nothing was heard for 3 s")],
)
def test_streams_of_a_muxer_that_is_not_agreed_to_end_with_the_reason(pieces, reason):
    async def main():
        wire, settings = Wire(*pieces), ControlSettings()
        muxer = BoundedYamux(
            wire, None, wire, settings, ReceiveBudget(settings), proposed=Initiator(PROTOCOL)
        )
        async with trio.open_nursery() as nursery:
            stream = await open_muxed(muxer)  # both may come before the answer
            await write_muxed(stream, b"data")
            nursery.start_soon(muxer.start)
            with pytest.raises(PeerGone, match=reason):
                await read_muxed(stream, 1)
            with pytest.raises(PeerGone):
                await open_muxed(muxer)
        assert wire.is_closed

    run(main)
