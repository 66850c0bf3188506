"""Binary multiaddrs: vectors, round trips, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from transport.address import Address, CircuitAddress, TcpAddress
from transport.control.multiaddr_bytes import decode_address, encode_address, encode_listen

PEER = KeyPair(bytes(32)).peer_id
RELAY = TcpAddress("203.0.113.9", 4001, KeyPair(bytes(range(32))).peer_id)


@pytest.mark.parametrize(
    "address",
    [
        Address("203.0.113.7", 4001, PEER),
        Address("2001:db8::7", 4001, PEER),
        RELAY,
        TcpAddress("2001:db8::9", 443, PEER),
        CircuitAddress(RELAY, PEER),
    ],
)
def test_every_form_comes_back(address):
    assert decode_address(encode_address(address)) == address


def test_the_bytes_are_those_of_the_specification():
    assert encode_listen(RELAY).hex() == "04cb007109060fa1"
    tail = bytes.fromhex("a50326") + RELAY.peer_id.multihash
    assert encode_address(RELAY) == encode_listen(RELAY) + tail


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_address_or_a_protocol_error(data):
    try:
        address = decode_address(data)
    except RemoteProtocolError:
        return
    assert decode_address(encode_address(address)) == address
