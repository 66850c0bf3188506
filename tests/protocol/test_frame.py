import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.frame import FrameType, Result, Step, decode_frame, encode_frame
from protocol.limits import CONTROL_BYTES_MAX, FRAME_BYTES_MAX, PREFIX_BLOCKS_MAX, RECORD_BYTES_MAX
from protocol.record import encode_canonical, encode_fields
from tests.protocol.frames import FRAMES, METER, OPEN, SESSION, STEP

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "frames.json").read_text())


def encoded(frame) -> bytes:
    return b"".join(encode_frame(frame))


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_has_its_golden_bytes(name):
    assert encoded(FRAMES[name]).hex() == VECTORS[name]
    assert decode_frame(bytes.fromhex(VECTORS[name])) == FRAMES[name]


def test_every_type_has_a_vector():
    assert {bytes.fromhex(vector)[0] for vector in VECTORS.values()} == set(FrameType)


@pytest.mark.parametrize("first", [0x00, 0x7F, 0xFF])
def test_a_type_we_do_not_know_is_skipped(first):
    assert decode_frame(bytes([first]) + b"whatever") is None


def test_an_empty_and_an_oversized_frame_are_refused():
    for data in (b"", bytes(FRAME_BYTES_MAX + 1)):
        with pytest.raises(RemoteProtocolError):
            decode_frame(data)


def test_an_oversized_control_frame_is_refused_before_it_is_parsed():
    with pytest.raises(RemoteProtocolError, match="above"):
        decode_frame(bytes([FrameType.OPEN]) + bytes(CONTROL_BYTES_MAX + 1))


def test_a_flipped_payload_byte_is_noticed():
    data = bytearray(encoded(STEP))
    data[-1] ^= 1
    with pytest.raises(RemoteProtocolError, match="hash"):
        decode_frame(bytes(data))


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"count": 513},
        {"wanted": 3},
        {"position": 2**31},
        {"payload": b"short"},
        {"session_id": b"short"},
        {"hidden_size": 0},
        {"hidden_size": 70_000},
    ],
)
def test_a_step_out_of_range_is_refused(change):
    with pytest.raises(RemoteProtocolError):
        dataclasses.replace(STEP, **change)


@pytest.mark.parametrize(
    "change",
    [{"hop_index": 2}, {"hop_count": 65}, {"capacity_tokens": 0}, {"epoch": -1}],
)
def test_an_open_out_of_range_is_refused(change):
    with pytest.raises(RemoteProtocolError):
        dataclasses.replace(OPEN, **change)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("open", "prefix", [b"p" * 15]),
        ("open", "prefix", [b"p" * 16, b"q" * 17]),
        ("open", "prefix", [b"p" * 16] * (PREFIX_BLOCKS_MAX + 1)),
        ("open", "prefix", [b"p" * 16] * 8),  # as many rows as the session may have
        ("open", "prefix", ["p" * 16]),
        ("open", "prefix", None),
        ("opened", "cached_tokens", -64),
        ("opened", "cached_tokens", None),
        ("close", "keep", [b""]),
        ("close", "keep", [b"p" * 16] * (PREFIX_BLOCKS_MAX + 1)),
        ("close", "keep", None),
    ],
)
def test_a_prefix_that_is_none_is_refused(name, field, value):
    fields = encode_fields(FRAMES[name]) | {field: value}
    if value is None:
        del fields[field]
    kind = bytes.fromhex(VECTORS[name])[:1]
    with pytest.raises(RemoteProtocolError):
        decode_frame(kind + encode_canonical(fields))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("open_last", "resume", -1),
        ("open_last", "resume", 513),
        ("open_last", "steps", -1),
        ("open_last", "drawn", b"abc"),
        ("open_last", "drawn", bytes(4 * 41)),
        ("open_last", "neighbours", [b"an envelope"] * 3),
        ("open_last", "eos", [1] * 65),
        ("opened_again", "cached_tokens", -1),
        ("opened_again", "replay_from", 2**31),
        ("attach_loop", "role", 3),
        ("progress", "rows_in", -1),
        ("progress", "rows_out", 2**31),
        ("probe", "nonce", -1),
        ("error", "epoch", 2**32),
    ],
)
def test_what_no_repair_can_mean_is_refused(name, field, value):
    fields = encode_fields(FRAMES[name]) | {field: value}
    kind = bytes.fromhex(VECTORS[name])[:1]
    with pytest.raises(RemoteProtocolError):
        decode_frame(kind + encode_canonical(fields))


def test_only_a_step_that_wants_one_row_is_fed_on():
    data = bytearray(encoded(STEP))
    data[3] = 1
    assert decode_frame(bytes(data)).loop == 1, "it wants one row"
    data[31] = 2
    with pytest.raises(RemoteProtocolError, match="fed on"):
        decode_frame(bytes(data))


def test_the_longest_prefix_fits_a_control_frame_with_the_largest_lease():
    prefix = tuple(n.to_bytes(16, "big") for n in range(PREFIX_BLOCKS_MAX))
    lease = bytes(RECORD_BYTES_MAX)
    frame = dataclasses.replace(OPEN, capacity_tokens=70_000, prefix=prefix, lease=lease)
    assert decode_frame(encoded(frame)) == frame


def test_a_meter_with_a_short_hash_is_refused():
    with pytest.raises(RemoteProtocolError):
        dataclasses.replace(METER, link_in_hash=b"")


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_do_more_than_be_refused(data):
    with contextlib.suppress(RemoteProtocolError):
        decode_frame(data)


@given(st.sampled_from(sorted(VECTORS)), st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_frame_never_does_more_than_be_refused(name, where, flip):
    data = bytearray(bytes.fromhex(VECTORS[name]))
    data[where % len(data)] ^= flip
    with contextlib.suppress(RemoteProtocolError):
        decode_frame(bytes(data))


@given(st.sampled_from(sorted(VECTORS)), st.integers(0, 10_000))
def test_a_cut_frame_never_does_more_than_be_refused(name, where):
    data = bytes.fromhex(VECTORS[name])
    with contextlib.suppress(RemoteProtocolError):
        decode_frame(data[: where % len(data)])


def test_step_and_result_share_their_layout():
    step, result = (
        encoded(STEP),
        encoded(Result(*dataclasses.astuple(STEP)[:5], 2, *dataclasses.astuple(STEP)[6:])),
    )
    assert step[0] == FrameType.STEP
    assert result[0] == FrameType.RESULT
    assert step[4:20] == result[4:20] == SESSION
    assert isinstance(decode_frame(result), Result)
    assert isinstance(decode_frame(step), Step)
