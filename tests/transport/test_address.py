import pytest

from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from transport.address import (
    Address,
    CircuitAddress,
    TcpAddress,
    known_addresses,
    parse_address,
)

PEER, RELAY = KeyPair(bytes(32)).peer_id, KeyPair(b"r" * 32).peer_id
FORMS = [
    Address("203.0.113.7", 4001, PEER),
    Address("2001:db8::7", 4001, PEER),
    TcpAddress("203.0.113.9", 4001, RELAY),
    CircuitAddress(TcpAddress("203.0.113.9", 4001, RELAY), PEER),
]


@pytest.mark.parametrize("address", FORMS)
def test_text_and_back(address):
    assert parse_address(str(address)) == address


def test_kinds_are_never_equal():
    assert Address("203.0.113.9", 1, PEER) != TcpAddress("203.0.113.9", 1, PEER)


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/relay.example/udp/1/quic-v1/p2p/" + str(PEER),
        f"/ip4/203.0.113.7/udp/0/quic-v1/p2p/{PEER}",
        f"/ip4/203.0.113.7/udp/1/quic/p2p/{PEER}",
        "/ip4/203.0.113.7/udp/1/quic-v1/p2p/QmSomeRsaPeer",
        f"/ip4/203.0.113.7/udp/1/quic-v1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
        "",
        "/" * 300,
    ],
)
def test_everything_else_is_refused(text):
    with pytest.raises(RemoteProtocolError):
        parse_address(text)


def test_forms_of_a_later_version_are_left_out():
    texts = ["/dns4/home.example/udp/1/quic-v2", *map(str, FORMS)]
    assert known_addresses(texts) == tuple(FORMS)


def test_a_tcp_address_is_no_data_address():
    with pytest.raises(RemoteProtocolError):
        Address.from_text(str(FORMS[2]))
