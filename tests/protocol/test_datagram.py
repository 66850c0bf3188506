import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.datagram import (
    PROBE_BYTES_MIN,
    Bind,
    Bound,
    DatagramType,
    Probe,
    Probed,
    Reflect,
    Reflected,
    forwarded,
    is_genuine,
)
from protocol.errors import RemoteProtocolError
from tests.protocol.samples import DATAGRAMS

ID, KEY, OTHER = b"12345678", bytes(range(32)), bytes(32)
VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "datagrams.json").read_text())
KINDS = {4: Reflect, 5: Reflected, 6: Bind, 7: Bound, 9: Probe, 10: Probed}


@pytest.mark.parametrize("name", sorted(DATAGRAMS))
def test_datagram_is_what_the_vector_says(name):
    data, key = bytes.fromhex(VECTOR[name]), bytes.fromhex(VECTOR["key"])
    assert DATAGRAMS[name] == data
    if data[0] in KINDS:
        again = KINDS[data[0]].decode(data)
        assert (again.encode() if data[0] < 6 else again.encode(key)) == data
    if data[0] in (6, 7, 9, 10):
        assert is_genuine(data, key)


def test_every_type_has_a_vector():
    assert {data[0] for data in DATAGRAMS.values()} == set(DatagramType)


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::7"])
def test_reflected_says_host_and_port_masked(host):
    reflected = Reflected(ID, host, 40_001, has_other_port=True)
    data = reflected.encode()
    assert Reflected.decode(data) == reflected
    assert (40_001).to_bytes(2, "big") not in data


def test_reflected_is_never_longer_than_reflect():
    assert len(Reflected(ID, "2001:db8::7", 1).encode()) <= len(Reflect(ID).encode())


def test_reflect_keeps_its_flag():
    assert Reflect.decode(Reflect(ID, from_other_port=True).encode()).from_other_port


def test_bind_and_bound_are_genuine_under_their_secret_alone():
    bind, bound = Bind(ID, 1, 7, b"a cookie"), Bound(ID, 1, 7, True, False, b"a cookie")
    assert Bind.decode(bind.encode(KEY)) == bind
    assert Bound.decode(bound.encode(KEY)) == bound
    for data in (bind.encode(KEY), bound.encode(KEY)):
        assert is_genuine(data, KEY)
        assert not is_genuine(data, OTHER)


@pytest.mark.parametrize("is_bound", [False, True])
@pytest.mark.parametrize("is_other_bound", [False, True])
def test_bound_says_of_each_side_by_itself_whether_it_is_bound(is_bound, is_other_bound):
    bound = Bound(ID, 0, 1, is_other_bound, is_bound)
    assert Bound.decode(bound.encode(KEY)) == bound


def test_bound_is_as_long_as_bind():
    assert len(Bound(ID, 0, 1, True).encode(KEY)) == len(Bind(ID, 0, 1).encode(KEY)) == 43


@pytest.mark.parametrize("index", range(43))
def test_every_byte_of_a_bind_is_under_its_mac(index):
    data = bytearray(Bind(ID, 1, 7, b"a cookie").encode(KEY))
    data[index] ^= 4
    changed = bytes(data)
    assert not is_genuine(changed, KEY)


@given(st.integers(PROBE_BYTES_MIN, 9000))
def test_probe_has_the_size_it_says(size):
    probe = Probe(ID, b"abcdefgh", size)
    data = probe.encode(KEY)
    assert len(data) == size
    assert Probe.decode(data) == probe
    assert is_genuine(data, KEY)
    answer = Probed(ID, probe.nonce, size).encode(KEY)
    assert len(answer) <= len(data)
    assert Probed.decode(answer) == Probed(ID, probe.nonce, size)


def test_probe_cut_short_is_refused():
    with pytest.raises(RemoteProtocolError):
        Probe.decode(Probe(ID, ID, 200).encode(KEY)[:150])


@given(st.binary(max_size=80))
def test_strangers_bytes_raise_nothing_but_our_error(data):
    for kind in (Reflect, Reflected, Bind, Bound, Probe, Probed):
        with contextlib.suppress(RemoteProtocolError):
            kind.decode(data)


@given(st.integers(0, 34), st.integers(0, 7))
def test_one_bit_changed_is_not_genuine(index, bit):
    data = bytearray(Probe(ID, ID, 60).encode(KEY))
    data[index] ^= 1 << bit
    changed = bytes(data)
    assert data[0] not in (0x09, 0x0A) or not is_genuine(changed, KEY)


def test_forwarded_carries_the_datagram_unchanged():
    assert forwarded(ID, b"quic")[9:] == b"quic"


def test_no_quic_packet_looks_like_ours():
    assert max(DatagramType) < 0x10
