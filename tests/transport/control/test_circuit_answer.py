import pytest

from protocol.errors import RemoteProtocolError
from transport.control.circuit_answer import CircuitAnswer
from transport.control.circuit_messages import (
    CIRCUIT_MESSAGE_BYTES_MAX,
    HOP_PROTOCOL,
    CircuitLimit,
    HopMessage,
    HopType,
    Status,
    split_message,
)
from transport.errors import ProtocolNotSupported, RelayRefused
from transport.multistream import HEADER, NOT_AVAILABLE, Initiator, encode_line

CIRCUIT = b"\x13the circuit's own bytes"


def prefixed(message):
    body = message.encode()
    return bytes((len(body),)) + body


def status(code):
    return prefixed(HopMessage(HopType.STATUS, status=code, limit=CircuitLimit(60, 1 << 30)))


AGREED = encode_line(HEADER) + encode_line(HOP_PROTOCOL)
GRANTED = AGREED + status(Status.OK)


def answer():
    return CircuitAnswer(Initiator(HOP_PROTOCOL), "No circuit")


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_circuits_bytes_begin_behind_the_status_however_they_are_cut(size):
    said = GRANTED + CIRCUIT
    given, asked = b"", answer()
    for start in range(0, len(said), size):
        given += asked.feed(said[start : start + size])
    assert given == CIRCUIT
    assert asked.is_over


def test_a_relay_that_has_agreed_already_owes_only_the_status():
    asked = CircuitAnswer(None, "No circuit")
    assert asked.feed(status(Status.OK)) == b""
    assert asked.is_over
    assert asked.feed(CIRCUIT) == CIRCUIT


@pytest.mark.parametrize("code", [Status.NO_RESERVATION, 299])
def test_a_refusal_is_told_with_its_status(code):
    with pytest.raises(RelayRefused, match=rf"No circuit: .*\({int(code)}\)") as refused:
        answer().feed(AGREED + status(code))
    assert refused.value.status == code


def test_who_is_no_relay_is_said():
    with pytest.raises(ProtocolNotSupported, match=HOP_PROTOCOL):
        answer().feed(encode_line(HEADER) + encode_line(NOT_AVAILABLE))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x05nonsense",
        AGREED + b"\x02\xff\xff",
        AGREED + b"\xff\xff\xff",
        AGREED + prefixed(HopMessage(HopType.RESERVE)),
        AGREED + b"\x02\x08\x02",
    ],
)
def test_nonsense_is_the_relays_fault(said):
    with pytest.raises(RemoteProtocolError):
        answer().feed(said)


def test_a_message_is_split_off_once_it_is_whole_and_never_above_its_limit():
    whole = bytes((0x80 | 0x2C, 0x02)) + bytes(300)
    for end in range(len(whole)):
        assert split_message(whole[:end]) is None
    assert split_message(whole + b"rest") == (bytes(300), b"rest")
    assert split_message(b"\x00rest") == (b"", b"rest")
    too_long = CIRCUIT_MESSAGE_BYTES_MAX + 1
    for prefix in (bytes((too_long & 0x7F | 0x80, too_long >> 7)), b"\x80\x80"):
        with pytest.raises(RemoteProtocolError, match="4096"):
            split_message(prefix)
