"""Reading straight from the bytes: everything it takes, the parser takes too, and as the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import Envelope
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.money import Work
from protocol.receipt import CosignedReceipt, Receipt
from protocol.record import (
    byte_string,
    decode_canonical,
    decode_fields,
    encode_canonical,
    encode_fields,
)
from protocol.record_reader import read_record

_COUNTS = st.integers(0, 2**62)
_HASHES = st.binary(min_size=32, max_size=32)
_RECEIPTS = st.builds(
    Receipt,
    lease_id=st.binary(min_size=16, max_size=16),
    sequence=st.integers(1, 2**63 - 1),
    epoch=_COUNTS,
    steps=_COUNTS,
    tokens=_COUNTS,
    work=st.builds(Work, _COUNTS, _COUNTS, _COUNTS, _COUNTS),
    amount_nanos=_COUNTS,
    link_in_hash=_HASHES,
    link_out_hash=_HASHES,
    final=st.booleans(),
)
_RECEIPT = Receipt(
    bytes(16), 24, 0, 255, 256, Work(23, 65_535, 65_536, 2**32), 7, bytes(32), bytes(32), True
)
_ENVELOPE = Envelope("piecework/receipt/v1", b"what was said", PeerId(bytes(32)), bytes(64))


def _parsed(kind: type, data: bytes) -> object:
    try:
        return decode_fields(kind, decode_canonical(data))
    except RemoteProtocolError as error:
        return type(error)


def _read(kind: type, data: bytes) -> object:
    try:
        return read_record(kind, data)
    except RemoteProtocolError as error:
        return type(error)


@given(_RECEIPTS)
def test_it_reads_what_was_written(receipt: Receipt) -> None:
    assert read_record(Receipt, encode_canonical(encode_fields(receipt))) == receipt


@given(st.data())
def test_changed_bytes_are_read_as_the_parser_reads_them_or_left_to_it(data: st.DataObject) -> None:
    encoded = bytearray(encode_canonical(encode_fields(data.draw(_RECEIPTS))))
    at = data.draw(st.integers(0, len(encoded) - 1))
    end = data.draw(st.integers(at, min(len(encoded), at + 3)))
    encoded[at:end] = data.draw(st.binary(max_size=4))
    found = _read(Receipt, bytes(encoded))
    assert found is None or found == _parsed(Receipt, bytes(encoded))


@pytest.mark.parametrize("cut", range(0, 260, 3))
def test_what_is_cut_short_is_left_to_the_parser(cut: int) -> None:
    encoded = encode_canonical(encode_fields(_RECEIPT))
    assert read_record(Receipt, encoded[:cut] if cut < len(encoded) else encoded[:-1]) is None


def test_another_spelling_of_a_number_is_left_to_the_parser() -> None:
    encoded = encode_canonical(encode_fields(_RECEIPT))
    longer = encoded.replace(b"\x65epoch\x00", b"\x65epoch\x18\x00")
    assert longer != encoded
    assert read_record(Receipt, longer) is None
    with pytest.raises(RemoteProtocolError):
        decode_canonical(longer)


def test_a_kind_of_another_shape_is_left_to_the_parser() -> None:
    assert read_record(Lease, b"\xa0") is None


@given(st.binary(max_size=300))
def test_a_byte_string_is_found_only_in_its_shortest_form(value: bytes) -> None:
    encoded = b"x" + encode_canonical(value)
    assert byte_string(encoded, 1, len(encoded)) == value
    longer = b"\x59" + len(value).to_bytes(2, "big") + value
    assert byte_string(longer, 0, len(longer)) == (value if len(value) > 255 else None)


@given(st.binary(max_size=70_000), st.binary(min_size=60, max_size=70))
def test_a_cosigned_receipt_is_parsed_as_the_parser_does(envelope: bytes, signature: bytes) -> None:
    encoded = CosignedReceipt(envelope, signature).encode()
    assert _decoded(CosignedReceipt, encoded) == _parsed(CosignedReceipt, encoded)


@pytest.mark.parametrize("kind", [Envelope, CosignedReceipt])
@given(data=st.data())
def test_changed_bytes_are_parsed_as_the_parser_does(kind: type, data: st.DataObject) -> None:
    whole = {Envelope: _ENVELOPE, CosignedReceipt: CosignedReceipt(_ENVELOPE.encode(), bytes(64))}
    encoded = bytearray(whole[kind].encode())
    at = data.draw(st.integers(0, len(encoded) - 1))
    end = data.draw(st.integers(at, min(len(encoded), at + 3)))
    encoded[at:end] = data.draw(st.binary(max_size=4))
    assert _decoded(kind, bytes(encoded)) == _parsed(kind, bytes(encoded))


def _decoded(kind: type, data: bytes) -> object:
    try:
        return kind.decode(data)
    except RemoteProtocolError as error:
        return type(error)
