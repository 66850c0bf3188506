import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.datagram import (
    PROBE_BYTES_MIN,
    Bind,
    Bound,
    Probe,
    Probed,
    Reflect,
    Reflected,
    forwarded,
    is_genuine,
    is_own,
)
from protocol.errors import RemoteProtocolError

ID, KEY, OTHER = b"12345678", bytes(range(32)), bytes(32)


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
    bind, bound = Bind(ID, 1, 7), Bound(ID, 1, 7, is_other_bound=True)
    assert Bind.decode(bind.encode(KEY)) == bind
    assert Bound.decode(bound.encode(KEY)) == bound
    for data in (bind.encode(KEY), bound.encode(KEY)):
        assert is_genuine(data, KEY)
        assert not is_genuine(data, OTHER)


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
    assert not any(is_own(first) for first in range(0x40, 0x100))
