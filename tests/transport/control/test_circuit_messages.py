"""Circuit relay v2's messages: vectors of the wire, and what a stranger may write instead."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from transport.control.base import ControlStream
from transport.control.circuit_messages import (
    CircuitLimit,
    HopMessage,
    HopType,
    RelayReservation,
    Status,
    StopMessage,
    StopType,
    read_message,
    status_text,
    write_message,
)
from transport.errors import TimedOut

PEER = KeyPair(bytes(range(32))).peer_id

MESSAGES = [
    HopMessage(HopType.RESERVE),
    HopMessage(HopType.CONNECT, peer=PEER),
    HopMessage(HopType.STATUS, status=Status.NO_RESERVATION),
    HopMessage(
        HopType.STATUS,
        reservation=RelayReservation(1_800_000_000, (b"\x04\x7f\0\0\x01\x06\x0f\xa1",), b"voucher"),
        limit=CircuitLimit(120, 1 << 40),
        status=Status.OK,
    ),
    HopMessage(HopType.STATUS, status=777),
    StopMessage(StopType.CONNECT, peer=PEER, limit=CircuitLimit(0, 0)),
    StopMessage(StopType.STATUS, status=Status.OK),
]


class Pipe(ControlStream):
    """What is written comes out of `read`, `chunk` bytes at a time; then it ends or hangs."""

    peer_id = PEER
    is_relayed = False
    remote = "127.0.0.1:1"

    def __init__(self, data=b"", chunk=1, hangs=False):
        self.data, self.chunk, self.hangs = data, chunk, hangs

    async def read(self, bytes_max):
        if not self.data and self.hangs:
            await asyncio.Event().wait()
        taken = self.data[: min(bytes_max, self.chunk)]
        self.data = self.data[len(taken) :]
        return taken

    async def write(self, data):
        self.data += data

    async def finish(self): ...

    async def close(self): ...

    async def reset(self): ...


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("chunk", [1, 1000])
async def test_a_message_arrives_as_it_was_and_what_follows_stays_unread(message, chunk):
    pipe = Pipe(chunk=chunk)
    await write_message(pipe, message)
    await pipe.write(b"raw bytes of the circuit")
    assert await read_message(pipe, type(message), timeout_s=1) == message
    assert pipe.data == b"raw bytes of the circuit"


def test_the_wire_is_that_of_the_specification():
    assert HopMessage(HopType.RESERVE).encode().hex() == "0800"
    assert HopMessage(HopType.STATUS, status=Status.NO_RESERVATION).encode().hex() == "080228cc01"
    assert StopMessage(StopType.STATUS, status=Status.OK).encode().hex() == "08012064"
    connect = HopMessage(HopType.CONNECT, peer=PEER).encode()
    assert connect == bytes.fromhex("080112280a26") + PEER.multihash


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_a_protocol_error(data):
    for kind in (HopMessage, StopMessage):
        try:
            message = kind.decode(data)
        except RemoteProtocolError:
            continue
        assert kind.decode(message.encode()) == message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ended"),
        (b"\x05\x08", "ended"),
        (b"\x81\x20", "at most 4096"),
        (b"\xff\xff\xff\x7f", "at most 4096"),
        (b"\x00", "no type"),
        (b"\x02\x08\x07", "type 7"),
        (b"\x02\xff\xff", "not valid protobuf"),
        (b"\x06\x08\x01\x12\x02\x0a\x00", "multihash"),
    ],
)
async def test_what_is_malformed_is_the_peers_fault(data, reason):
    with pytest.raises(RemoteProtocolError, match=reason):
        await read_message(Pipe(data), HopMessage, timeout_s=1)


async def test_a_silent_peer_is_not_waited_for():
    with pytest.raises(TimedOut):
        await read_message(Pipe(b"\x02", hangs=True), HopMessage, timeout_s=0.05)


def test_a_status_is_named_for_people():
    assert status_text(Status.NO_RESERVATION) == "NO_RESERVATION (204)"
    assert status_text(777) == "an unknown status (777)"
