import contextlib
import dataclasses
from enum import IntEnum, StrEnum

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.limits import RECORD_BYTES_MAX, RECORD_DEPTH_MAX
from protocol.record import (
    INTEGER_MAX,
    decode_canonical,
    decode_fields,
    encode_canonical,
    encode_fields,
)
from tests.protocol.samples import PROVIDER

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: _depth(value) <= RECORD_DEPTH_MAX)


def _depth(value):
    if isinstance(value, dict):
        return 1 + max((_depth(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(inner) for inner in value), default=0)
    return 0


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    SMALL = 1
    BIG = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Inner:
    size: Size


@dataclasses.dataclass(frozen=True, slots=True)
class Everything:
    """One field of every type that a record may have."""

    number: int
    text: str
    data: bytes
    flag: bool
    peer: PeerId
    colour: Colour
    size: Size
    inner: Inner
    inners: tuple[Inner, ...]
    absent: bytes | None


EVERYTHING = Everything(
    number=7,
    text="seven",
    data=b"7",
    flag=True,
    peer=PROVIDER.peer_id,
    colour=Colour.RED,
    size=Size.SMALL,
    inner=Inner(Size.BIG),
    inners=(Inner(Size.BIG),),
    absent=None,
)


class TestCanonical:
    @given(plain)
    def test_round_trips(self, value):
        assert decode_canonical(encode_canonical(value)) == value

    @given(st.dictionaries(st.text(), st.integers(0, 100), min_size=2))
    def test_order_of_keys_does_not_matter(self, value):
        reordered = dict(reversed(value.items()))
        assert encode_canonical(reordered) == encode_canonical(value)

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes_decode_to_the_same_bytes_or_are_refused(self, data):
        with contextlib.suppress(RemoteProtocolError):
            assert encode_canonical(decode_canonical(data)) == data

    @pytest.mark.parametrize(
        ("spelling", "data"),
        [
            ("1 in two bytes", "1801"),
            ("1 in nine bytes", "1b0000000000000001"),
            ("keys out of order", "a2616201616102"),
            ("a longer key before a shorter", "a2626161016162 02"),
            ("the same key twice", "a2616101616102"),
            ("an indefinite list", "9f01ff"),
            ("an indefinite string", "7f6161ff"),
            ("a trailing byte", "0100"),
            ("nothing", ""),
            ("cut short", "8201"),
            ("a list as a key", "a1810102"),
            ("a float in a longer form", "fb3ff0000000000000"),
            ("not UTF-8", "61ff"),
        ],
    )
    def test_refuses_every_other_spelling(self, spelling, data):
        with pytest.raises(RemoteProtocolError):
            decode_canonical(bytes.fromhex(data))

    @pytest.mark.parametrize("tag", [0, 1, 2, 3, 4, 5, 25, 28, 29, 35, 36, 258, 999, 55799])
    def test_refuses_tags(self, tag):
        with pytest.raises(RemoteProtocolError):
            decode_canonical(cbor2.dumps(cbor2.CBORTag(tag, [1, 2])))

    def test_refuses_what_is_too_long_or_too_deep(self):
        with pytest.raises(RemoteProtocolError, match="above"):
            decode_canonical(encode_canonical(bytes(RECORD_BYTES_MAX)))
        with pytest.raises(RemoteProtocolError):
            decode_canonical(b"\x81" * 10_000 + b"\x01")
        with pytest.raises(RemoteProtocolError):
            decode_canonical(b"\x9b" + b"\xff" * 8)  # a list that claims 2^64 items


class TestFields:
    def test_round_trips_every_type(self):
        plain_map = encode_fields(EVERYTHING)
        assert "absent" not in plain_map
        assert decode_fields(Everything, decode_canonical(encode_canonical(plain_map))) == (
            EVERYTHING
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"number": "7"},
            {"number": True},
            {"number": 7.0},
            {"number": INTEGER_MAX + 1},
            {"number": None},
            {"text": b"seven"},
            {"data": "7"},
            {"flag": 1},
            {"peer": b"short"},
            {"peer": str(PROVIDER.peer_id)},
            {"peer": {"public_key": bytes(32)}},
            {"colour": "blue"},
            {"colour": 3},
            {"size": True},
            {"inner": {}},
            {"inner": {"size": 3}},
            {"inner": 2},
            {"inners": {"size": 2}},
            {"inners": [2]},
            {"absent": "no bytes"},
            {"absent": None},
            {"unknown": 1},
        ],
        ids=str,
    )
    def test_refuses_a_field_of_the_wrong_type_or_in_a_second_spelling(self, change):
        with pytest.raises(RemoteProtocolError):
            decode_fields(Everything, encode_fields(EVERYTHING) | change)

    def test_refuses_a_missing_field(self):
        for name in encode_fields(EVERYTHING):
            less = {key: value for key, value in encode_fields(EVERYTHING).items() if key != name}
            with pytest.raises(RemoteProtocolError, match=f"(?i){name}"):
                decode_fields(Everything, less)

    @given(plain)
    def test_refuses_plain_data_that_is_no_record(self, value):
        with pytest.raises(RemoteProtocolError):
            decode_fields(Everything, value)

    def test_our_own_mistakes_are_local(self):
        with pytest.raises(LocalProtocolError):
            encode_fields({"a": "dict"})
        with pytest.raises(LocalProtocolError):
            encode_fields(dataclasses.make_dataclass("Bad", ["number"])(1.5))
