import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.reach import (
    CANDIDATES_MAX,
    Candidate,
    CandidateKind,
    CircuitSide,
    Connect,
    Filtering,
    Mapping,
    NATHints,
    Sync,
    decode_reach,
    encode_reach,
)
from protocol.record import encode_canonical

LAN = Candidate(CandidateKind.LAN, "192.168.1.7", 40_000)
SEEN = Candidate(CandidateKind.OBSERVED, "2001:db8::7", 40_000)
CIRCUIT = CircuitSide("203.0.113.9", 4001, b"circuit.", 1, bytes(32))
HINTS = NATHints(Mapping.DEPENDENT, Filtering.OPEN, (40_000, 40_002, 40_004))
CONNECT = Connect(0, b"linklink", bytes(32), HINTS, (LAN, SEEN), (CIRCUIT,))


@pytest.mark.parametrize("message", [CONNECT, Sync(3)])
def test_what_is_encoded_is_decoded(message):
    assert decode_reach(encode_reach(message)) == message


def test_a_type_of_a_later_version_is_skipped():
    assert decode_reach(encode_canonical({"type": "hello", "x": 1})) is None


@pytest.mark.parametrize("host", ["224.0.0.1", "0.0.0.0", "255.255.255.255", "example.org"])
def test_nobody_is_made_to_probe_an_address_that_is_no_hosts_own(host):
    with pytest.raises(RemoteProtocolError):
        Candidate(CandidateKind.OBSERVED, host, 1)


def test_too_many_candidates_are_refused():
    with pytest.raises(RemoteProtocolError, match="more candidates"):
        Connect(0, b"linklink", bytes(32), HINTS, (LAN,) * (CANDIDATES_MAX + 1))


@given(st.binary(max_size=200))
def test_strangers_bytes_raise_nothing_but_our_error(data):
    with contextlib.suppress(RemoteProtocolError):
        decode_reach(data)


def test_a_regular_step_of_observed_ports_is_seen():
    assert HINTS.port_delta == 2
    assert NATHints(Mapping.DEPENDENT, Filtering.OPEN, (1, 5, 7)).port_delta is None
