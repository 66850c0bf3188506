"""Everything that reads a peer's bytes, fed with damaged ones: an error of ours, or a value.

Nothing else may come out: no IndexError, no struct.error, and nothing that grows.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from protocol.datagram import Bind, Bound, Probe, Probed, Reflect, Reflected
from protocol.envelope import Envelope
from protocol.errors import PieceworkError
from protocol.frame import decode_frame
from protocol.identity import KeyPair, PeerId
from protocol.reach import (
    Candidate,
    CandidateKind,
    CircuitSide,
    Connect,
    Mapping,
    NATHints,
    Sync,
    decode_reach,
    encode_reach,
)
from protocol.relay_messages import ForwardGrant, ForwardRequest, Where, decode_answer
from protocol.rendezvous_messages import Discovered, decode_rendezvous_request
from tests.hostile import Mutator, object_count
from tests.transport.control.test_circuit_messages import MESSAGES, Pipe
from transport.address import TcpAddress, parse_address
from transport.control.circuit_messages import HopMessage, StopMessage
from transport.control.circuit_messages import read_message as read_circuit_message
from transport.control.messages import read_message
from transport.control.multiaddr_bytes import decode_address, encode_address
from transport.framing import FrameReader, encode_length
from transport.lan.chunks import ChunkReader
from transport.lan.record import properties_of, sighting_of
from transport.lan.tickets import TicketBook
from transport.lan.wire import (
    ChunkKind,
    LanHost,
    Offer,
    Want,
    accepted,
    chunk_header,
    code_chunk,
    decode_accepted,
    opening,
    opening_name_bytes,
)
from transport.libp2p_identify import Identity
from transport.multistream import HEADER, LINE_BYTES_MAX, Initiator, Responder, encode_line
from transport.reach.tunnel import TUNNEL_DATAGRAM_BYTES, Tunnel

SEED = 20_261_121
EACH = 1500
"""Damaged messages to every decoder: about 45 000 in all."""

GROWTH_EACH = 100
GROWTH_OBJECTS_MAX = 500
"""What 3 000 messages may leave behind, in caches of the standard library."""

PEER = KeyPair(bytes(range(32))).peer_id
KEY, ID = bytes(32), bytes(range(8))
VECTORS = Path(__file__).parents[1] / "vectors"


def vectors(name: str) -> list[bytes]:
    """Every hexadecimal text of a file of vectors."""
    found: list[bytes] = []

    def collect(value: object) -> None:
        if isinstance(value, dict):
            for each in value.values():
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)
        elif isinstance(value, str) and len(value) % 2 == 0:
            try:
                found.append(bytes.fromhex(value))
            except ValueError:
                return

    collect(json.loads((VECTORS / f"{name}.json").read_text()))
    return found


def one_after_another(feed: Callable[[bytes], object], data: bytes) -> None:
    """As a stream brings it: in pieces that respect no boundary."""
    for begin in range(0, len(data), 7):
        feed(data[begin : begin + 7])


def frames(data: bytes) -> None:
    reader = FrameReader(1000)
    try:
        one_after_another(reader.feed, data)
    finally:
        assert reader.buffered_bytes <= len(data)
        for _ in range(reader.frame_count):
            taken = reader.take()
            assert taken is not None
            assert len(taken) <= 1000
        assert reader.take() is None


def initiator(data: bytes) -> None:
    one_after_another(Initiator("/x/1").feed, data)


def responder(data: bytes) -> None:
    called = Responder(lambda name: name == "/x/1")
    try:
        one_after_another(called.feed, data)
    finally:
        assert len(called.take_answer()) < 20 * LINE_BYTES_MAX


class Sink:
    def __init__(self) -> None:
        self.size = 0

    def on_data(self, data: memoryview) -> None:
        self.size += len(data)

    def on_fin(self) -> None: ...
    def on_reset(self, code: int) -> None:
        assert 0 <= code < 2**64

    on_stop = on_reset

    def on_ended(self) -> None: ...


def chunks(data: bytes) -> None:
    sink = Sink()
    reader = ChunkReader(sink)
    try:
        one_after_another(lambda part: reader.feed(memoryview(part)), data)
    finally:
        assert sink.size <= len(data)


def tickets(data: bytes) -> None:
    book: TicketBook[str] = TicketBook(2, 10.0)
    good = book.issue("owner", monotonic())
    assert data == good or book.redeem(data, monotonic()) is None
    assert book.outstanding_count == 1


def announcement(data: bytes) -> None:
    half = len(data) // 2
    sighting_of({b"v": b"1", b"id": data[:half], b"c": data[half:]}, ["10.0.0.1"], 4001)


def address_text(data: bytes) -> None:
    parse_address(data.decode(errors="replace"))


CONNECT = Connect(
    3,
    ID,
    KEY,
    NATHints(Mapping.DEPENDENT, ports=(1, 2, 3)),
    (
        Candidate(CandidateKind.LAN, "192.168.1.2", 4001),
        Candidate(CandidateKind.OBSERVED, "2001:db8::1", 4001),
    ),
    (CircuitSide("203.0.113.1", 4001, ID, 1, KEY),),
)
OFFER = Offer(
    4001, KEY, 60_000, (LanHost("10.0.0.1", 1000), LanHost("fd00::1", 0)), (KEY, bytes(32))
)
RELAY = TcpAddress("203.0.113.1", 4001, PEER)
DATAGRAMS = [
    Reflect(ID, True).encode(),
    Reflected(ID, "203.0.113.7", 4001, has_other_port=True).encode(),
    Reflected(ID, "2001:db8::7", 4001).encode(),
    Bind(ID, 1, 77).encode(KEY),
    Bound(ID, 1, 77, True).encode(KEY),
    Probe(ID, ID, 300).encode(KEY),
    Probed(ID, ID, 300).encode(KEY),
]
LINES = [encode_line(line) for line in (HEADER, "/x/1", "na", "/y/" + "y" * 200)]
FRAMES = [encode_length(size) + bytes(size) for size in (0, 1, 30, 1000)]
CHUNKS = [
    chunk_header(ChunkKind.DATA, 20) + bytes(20),
    chunk_header(ChunkKind.FIN, 0),
    code_chunk(ChunkKind.RESET, 7),
    code_chunk(ChunkKind.STOP, 2**62),
    chunk_header(ChunkKind.ENDED, 0),
]
IDENTIFY = [
    Identity(KEY, [b"\x04\x7f\0\0\x01"], ["/a/1", "/b/1"], b"\x04\x7f\0\0\x01").encode(),
    Identity().encode(),
]

DECODERS: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
    "REFLECT": (Reflect.decode, DATAGRAMS),
    "REFLECTED": (Reflected.decode, DATAGRAMS),
    "BIND": (Bind.decode, DATAGRAMS),
    "BOUND": (Bound.decode, DATAGRAMS),
    "PROBE": (Probe.decode, DATAGRAMS),
    "PROBED": (Probed.decode, DATAGRAMS),
    "frames of a stream": (frames, [b"".join(FRAMES), *FRAMES]),
    "multistream, dialler": (initiator, [LINES[0] + LINES[1] + b"data", LINES[0] + LINES[2]]),
    "multistream, called": (responder, [b"".join(LINES), *LINES]),
    "session frame": (decode_frame, vectors("frames")),
    "envelope": (Envelope.decode, vectors("records")),
    "reach": (decode_reach, [encode_reach(CONNECT), encode_reach(Sync(3))]),
    "forward request": (ForwardRequest.decode, vectors("relay")),
    "forward grant": (partial(decode_answer, ForwardGrant), vectors("relay")),
    "where": (partial(decode_answer, Where), vectors("relay")),
    "rendezvous request": (decode_rendezvous_request, vectors("relay")),
    "rendezvous answer": (partial(decode_answer, Discovered), vectors("relay")),
    "hop": (HopMessage.decode, [message.encode() for message in MESSAGES]),
    "stop": (StopMessage.decode, [message.encode() for message in MESSAGES]),
    "identify": (Identity.decode, IDENTIFY),
    "multiaddr": (decode_address, [encode_address(RELAY)]),
    "address": (address_text, [str(RELAY).encode(), b"/ip6/::1/udp/1/quic-v1/p2p/x"]),
    "peer id": (PeerId.from_multihash, [PEER.multihash]),
    "announcement": (announcement, list(map(str.encode, properties_of(PEER, "tag").values()))),
    "LAN want": (Want.decode, [Want(3).encode(), OFFER.encode()]),
    "LAN offer": (partial(Offer.decode, hosts_max=16), [OFFER.encode()]),
    "LAN opening": (opening_name_bytes, [opening(KEY, "/x/1")]),
    "LAN accepted": (decode_accepted, [accepted(KEY)]),
    "LAN chunks": (chunks, [b"".join(CHUNKS), *CHUNKS]),
    "LAN ticket": (tickets, [KEY]),
}


@pytest.mark.parametrize("name", DECODERS)
def test_damaged_messages_give_a_value_or_an_error_of_ours(name: str):
    decode, samples = DECODERS[name]
    for sample in samples:
        _tried(decode, sample)
    refused = sum(_tried(decode, data) for data in Mutator(SEED, samples).take(EACH))
    assert refused > EACH // 20 or name == "LAN ticket"


def test_nothing_of_them_is_kept():
    before = 0
    for lap in range(2):  # the first fills the caches of libraries
        for decode, samples in DECODERS.values():
            for data in Mutator(SEED + lap, samples).take(GROWTH_EACH):
                _tried(decode, data)
        now = object_count()
        assert not before or now - before < GROWTH_OBJECTS_MAX
        before = now


@pytest.mark.parametrize("name", ["tunnel", "message", "hop"])
async def test_damaged_streams_of_the_control_plane_end_in_an_error_of_ours(name: str):
    datagrams = [len(data).to_bytes(2, "big") + data for data in DATAGRAMS]
    hop = MESSAGES[3].encode()
    samples = {
        "tunnel": [b"".join(datagrams), *datagrams],
        "message": [len(data).to_bytes(4, "big") + data for data in DATAGRAMS],
        "hop": [bytes((len(hop) & 0x7F | 0x80, len(hop) >> 7)) + hop],
    }
    for data in Mutator(SEED, samples[name]).take(EACH // 3):
        stream = Pipe(data, chunk=11)
        if name == "tunnel":
            await _tunnelled(stream)
        else:
            with contextlib.suppress(PieceworkError):
                await (
                    read_message(stream, 1000)
                    if name == "message"
                    else read_circuit_message(stream, HopMessage, timeout_s=5)
                )


async def _tunnelled(stream: Pipe) -> None:
    """All of the stream through a tunnel, which ends once, with a reason."""
    ended: asyncio.Queue[str] = asyncio.Queue()
    taken: list[bytes] = []
    tunnel = Tunnel(stream, taken.extend, ended.put_nowait)
    assert await asyncio.wait_for(ended.get(), 5)
    await tunnel.close()
    assert ended.empty()
    assert all(len(datagram) <= TUNNEL_DATAGRAM_BYTES for datagram in taken)


def _tried(decode: Callable[[bytes], object], data: bytes) -> bool:
    """Whether it was refused, with an error of ours."""
    try:
        decode(data)
    except PieceworkError:
        return True
    except Exception as error:
        raise AssertionError(f"seed {SEED}, {data.hex()}: {error!r}") from error
    return False
