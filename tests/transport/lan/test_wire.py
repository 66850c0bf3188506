"""The LAN's wire: chunks however they are cut, openings, offers, tickets."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from transport.lan.chunks import ChunkReader
from transport.lan.tickets import TicketBook, TicketPurse
from transport.lan.verdict import LanCarrierKind, choose
from transport.lan.wire import (
    OPENING_BYTES,
    RESET_CODE_MAX,
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


class Sink:
    def __init__(self) -> None:
        self.seen: list[object] = []

    def on_data(self, data: memoryview) -> None:
        if self.seen and isinstance(self.seen[-1], bytes):
            self.seen[-1] += bytes(data)
        else:
            self.seen.append(bytes(data))

    def on_fin(self) -> None:
        self.seen.append("fin")

    def on_reset(self, code: int) -> None:
        self.seen.append(("reset", code))

    def on_stop(self, code: int) -> None:
        self.seen.append(("stop", code))

    def on_ended(self) -> None:
        self.seen.append("ended")


def fed(wire: bytes, cuts: list[int]) -> list[object]:
    sink = Sink()
    reader, at = ChunkReader(sink), 0
    for size in [*cuts, len(wire)]:
        reader.feed(memoryview(wire)[at : at + size])
        at += size
    return sink.seen


WIRE = b"".join(
    (
        chunk_header(ChunkKind.DATA, 300) + bytes(range(256)) + bytes(44),
        code_chunk(ChunkKind.STOP, 77),
        chunk_header(ChunkKind.DATA, 0),
        chunk_header(ChunkKind.DATA, 1) + b"x",
        chunk_header(ChunkKind.ENDED, 0),
        chunk_header(ChunkKind.FIN, 0),
        code_chunk(ChunkKind.RESET, RESET_CODE_MAX),
    )
)
SEEN = [
    bytes(range(256)) + bytes(44),
    ("stop", 77),
    b"x",
    "ended",
    "fin",
    ("reset", RESET_CODE_MAX),
]


class TestChunks:
    @given(st.lists(st.integers(1, 40), max_size=80))
    def test_are_the_same_however_they_are_cut(self, cuts):
        assert fed(WIRE, cuts) == SEEN

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes_raise_nothing_but_a_protocol_error(self, wire):
        with suppress(RemoteProtocolError):
            fed(wire, [])

    def test_code_that_does_not_fit_is_the_largest(self):
        assert fed(code_chunk(ChunkKind.RESET, 2**70), []) == [("reset", RESET_CODE_MAX)]


class TestMessages:
    def test_offer_comes_back(self):
        hosts = (LanHost("192.168.1.2", 1000), LanHost("fd00::1", 0))
        offer = Offer(4001, b"h" * 32, 60_000, hosts, (b"a" * 32, b"b" * 32))
        assert Offer.decode(offer.encode(), hosts_max=16) == offer

    @given(st.binary(max_size=300))
    def test_arbitrary_frames_raise_nothing_but_a_protocol_error(self, frame):
        for decode in (Want.decode, lambda data: Offer.decode(data, hosts_max=16)):
            with suppress(RemoteProtocolError):
                decode(frame)

    def test_opening_and_answer(self):
        head = opening(b"t" * 32, "/piecework/session/1")
        assert opening_name_bytes(head[:OPENING_BYTES]) == len(head) - OPENING_BYTES
        assert decode_accepted(accepted(b"n" * 32)) == b"n" * 32
        for answer in (b"", b"\x02" + bytes(32), b"\x01" + bytes(31)):
            with pytest.raises(RemoteProtocolError):
                decode_accepted(answer)
        for name in ("", "x" * 257):
            with pytest.raises(ValueError, match="protocol name"):
                opening(b"t" * 32, name)


class TestTicketBook:
    def test_ticket_is_good_once_and_for_its_owner(self):
        book = TicketBook[str](per_owner_max=4, lifetime_s=10)
        a, b = book.issue("a", 0.0), book.issue("b", 0.0)
        assert book.redeem(a, 1.0) == "a"
        assert book.redeem(a, 1.0) is None
        assert book.redeem(b, 1.0) == "b"
        assert book.redeem(bytes(32), 1.0) is None
        assert book.outstanding_count == 0

    def test_too_late_is_too_late(self):
        book = TicketBook[str](per_owner_max=4, lifetime_s=10)
        assert book.redeem(book.issue("a", 0.0), 10.0) is None

    def test_one_too_many_makes_the_oldest_void(self):
        book = TicketBook[str](per_owner_max=2, lifetime_s=10)
        first, second, third = [book.issue("a", 0.0) for _ in range(3)]
        assert book.outstanding_count == 2
        assert book.redeem(first, 1.0) is None
        assert book.redeem(third, 1.0) == "a"
        assert book.redeem(second, 1.0) == "a"

    def test_revoked_owner_has_none(self):
        book = TicketBook[str](per_owner_max=2, lifetime_s=10)
        ticket, other = book.issue("a", 0.0), book.issue("b", 0.0)
        book.revoke("a")
        book.revoke("nobody")
        assert book.redeem(ticket, 1.0) is None
        assert book.redeem(other, 1.0) == "b"


def test_purse_hands_out_only_what_is_still_good():
    purse = TicketPurse()
    purse.put(b"old", 10.0, 0.0)
    purse.put(b"new", 60.0, 0.0)
    assert purse.take(9.0) == b"new"
    assert purse.take(9.0) is None


@pytest.mark.parametrize(
    ("tcp_s", "quic_s", "carrier"),
    [
        (0.0001, 0.001, LanCarrierKind.TCP),
        (0.001, 0.001, LanCarrierKind.TCP),
        (0.001, 0.00095, LanCarrierKind.TCP),
        (0.001, 0.0005, LanCarrierKind.QUIC),
        (None, 0.0005, LanCarrierKind.QUIC),
        (None, None, LanCarrierKind.QUIC),
        (0.001, None, LanCarrierKind.TCP),
    ],
)
def test_faster_carrier_is_chosen_and_a_draw_is_tcp(tcp_s, quic_s, carrier):
    chosen, reason = choose(tcp_s, quic_s)
    assert chosen is carrier
    assert reason.endswith(".")
