"""Frames to the head go out whole, whoever is cancelled meanwhile."""

import asyncio

import pytest

from node.serve.head_stream import HeadStream
from protocol.errors import SessionError
from protocol.frame import Probe, decode_frame
from protocol.identity import KeyPair
from transport.base import Stream
from transport.testing import run_virtual

SESSION = bytes(16)


class SlowStream(Stream):
    """Sends a frame part by part, as over QUIC; a frame that is broken off breaks it."""

    def __init__(self, part_s: float) -> None:
        self.sent: list[bytes] = []
        self.is_broken = False
        self._part_s = part_s

    peer_id = KeyPair.generate().peer_id
    path_kind = "lan"

    async def send(self, *parts: bytes) -> None:
        try:
            await asyncio.sleep(self._part_s)
        except asyncio.CancelledError:
            self.is_broken = True
            raise
        self.sent.append(b"".join(parts))

    async def receive(self) -> bytes | None:
        return None

    def finish(self) -> None:
        return

    def reset(self, code: int) -> None:
        return

    def statistics(self):
        raise AssertionError("nobody asks")


def nonces(stream: SlowStream) -> list[int]:
    return [decode_frame(data).nonce for data in stream.sent]


def test_a_frame_that_has_begun_goes_out_and_one_that_waits_does_not():
    async def send() -> None:
        stream = SlowStream(1.0)
        head = HeadStream(stream)
        tasks = [asyncio.create_task(head.send(Probe(SESSION, n))) for n in range(3)]
        await asyncio.sleep(0.5)
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, True, False]
        assert nonces(stream) == [0, 2]
        assert not stream.is_broken

    run_virtual(send())


def test_a_head_that_takes_nothing_is_not_waited_for_for_ever():
    async def send() -> None:
        head = HeadStream(SlowStream(10_000.0))
        with pytest.raises(SessionError):
            await head.send(Probe(SESSION, 1))
        await head.close()

    run_virtual(send())
