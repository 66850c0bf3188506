"""The two directions of a stream, without a connection."""

import asyncio
from types import SimpleNamespace

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from transport.errors import PeerGone, StreamReset
from transport.framing import encode_length
from transport.quic.halves import ReceivingHalf, SendingHalf
from transport.quic.seams import ResetCode

LIMIT = 1000


class Carrier:
    """Records what a half asks for; acknowledges when told."""

    def __init__(self) -> None:
        self.settings = SimpleNamespace(
            frame_bytes_max=200_000, unacknowledged_bytes_max=LIMIT, send_slice_bytes=50_000
        )
        self.written = b""
        self.unacknowledged = 0
        self.consumed = 0
        self.calls: list[tuple[object, ...]] = []

    def write(self, stream_id: int, data: bytes, *, is_last: bool = False) -> None:
        self.written += data
        self.unacknowledged += len(data)
        if is_last:
            self.calls.append(("last",))

    def unacknowledged_bytes(self, stream_id: int) -> int:
        return self.unacknowledged

    def consume(self, stream_id: int, count: int) -> None:
        self.consumed += count

    def reset_stream(self, stream_id: int, code: int) -> None:
        self.calls.append(("reset", code))

    def stop_stream(self, stream_id: int, code: int) -> None:
        self.calls.append(("stop", code))

    def wait_for_room(self, stream_id: int) -> None:
        self.calls.append(("wait",))


def arrive(half: ReceivingHalf, data: bytes) -> None:
    half.on_arrived(len(data))
    half.feed(data)


def frame(body: bytes) -> bytes:
    return encode_length(len(body)) + body


class TestReceivingHalf:
    async def test_window_moves_when_a_frame_is_taken_not_when_it_arrives(self):
        carrier = Carrier()
        half = ReceivingHalf(carrier, 0)
        arrive(half, frame(b"x" * 50) + frame(b"y") + b"\0\0")
        assert carrier.consumed == 0
        assert await half.receive() == b"x" * 50
        assert carrier.consumed == 54
        assert await half.receive() == b"y"
        assert carrier.consumed == 59

    async def test_reset_gives_back_also_what_never_arrived(self):
        carrier = Carrier()
        half = ReceivingHalf(carrier, 0)
        arrive(half, frame(b"x" * 50))
        half.finish_by_reset(StreamReset("gone", 5), window_used_bytes=300)
        assert carrier.consumed == 300
        with pytest.raises(StreamReset):
            await half.receive()

    async def test_after_stop_everything_is_given_back_as_it_arrives(self):
        carrier = Carrier()
        half = ReceivingHalf(carrier, 0)
        arrive(half, frame(b"x" * 50))
        half.stop(StreamReset("enough", 7), 7)
        half.stop(StreamReset("enough", 7), 7)
        arrive(half, b"z" * 40)
        assert carrier.consumed == 94
        assert carrier.calls == [("stop", 7)]

    async def test_end_within_a_frame_is_the_peers_fault(self):
        half = ReceivingHalf(Carrier(), 0)
        arrive(half, frame(b"whole") + b"\0\0\0\5hal")
        half.finish()
        assert await half.receive() == b"whole"
        with pytest.raises(RemoteProtocolError, match="within a frame"):
            await half.receive()

    async def test_what_arrived_whole_is_read_before_the_error(self):
        half = ReceivingHalf(Carrier(), 0)
        arrive(half, frame(b"whole"))
        half.fail(PeerGone("gone"))
        assert await half.receive() == b"whole"
        with pytest.raises(PeerGone):
            await half.receive()

    async def test_peer_gone_after_its_end_is_only_an_end(self):
        half = ReceivingHalf(Carrier(), 0)
        half.finish()
        half.fail(PeerGone("gone"))
        assert await half.receive() is None

    async def test_cancelled_reader_can_read_again(self):
        half = ReceivingHalf(Carrier(), 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await half.receive()
        arrive(half, frame(b"later"))
        assert await half.receive() == b"later"


class TestSendingHalf:
    async def test_waits_above_the_limit_and_goes_on_below(self):
        carrier = Carrier()
        half = SendingHalf(carrier, 0)
        await half.send((b"x" * 900,))
        sending = asyncio.create_task(half.send((b"y" * 200,)))
        await asyncio.sleep(0)
        assert not sending.done()
        carrier.unacknowledged = 500
        half.on_room()
        await sending
        assert carrier.written == frame(b"x" * 900) + frame(b"y" * 200)

    async def test_large_frame_is_queued_in_slices(self):
        carrier = Carrier()
        half = SendingHalf(carrier, 0)
        body = bytes(range(256)) * 700
        sending = asyncio.create_task(half.send((body[:100_000], body[100_000:])))
        for _ in range(20):
            await asyncio.sleep(0)
            assert carrier.unacknowledged <= 50_004
            carrier.unacknowledged = 0
            half.on_room()
        await sending
        assert carrier.written == frame(body)

    async def test_waiting_sender_is_told_of_a_stop(self):
        carrier = Carrier()
        half = SendingHalf(carrier, 0)
        sending = asyncio.create_task(half.send((b"x" * 2000,)))
        await asyncio.sleep(0)
        half.fail(StreamReset("stopped", 3))
        with pytest.raises(StreamReset):
            await sending

    async def test_cancelling_a_queued_frame_is_harmless_half_of_one_is_not(self):
        carrier = Carrier()
        half = SendingHalf(carrier, 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await half.send((b"x" * 2000,))
        carrier.unacknowledged = 0
        await half.send((b"y",))
        assert carrier.written == frame(b"x" * 2000) + frame(b"y")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await half.send((b"z" * 150_000,))
        assert carrier.calls[-1] == ("reset", ResetCode.CANCELLED)
        with pytest.raises(LocalProtocolError):
            await half.send((b"y",))

    async def test_reset_follows_finish_and_happens_once(self):
        carrier = Carrier()
        half = SendingHalf(carrier, 0)
        half.finish()
        half.reset(StreamReset("no", 4), 4)
        half.reset(StreamReset("no", 5), 5)
        assert carrier.calls == [("last",), ("reset", 4)]
        assert half.is_done
