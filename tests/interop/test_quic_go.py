"""The data socket and go-libp2p: QUIC-v1 with identify and ping, dialled from either side."""

import os

import pytest

from protocol.identity import KeyPair
from tests.interop.p2pd import DaemonError, find_p2pd, go_peer
from transport.address import Address
from transport.errors import DialFailed
from transport.libp2p_identify import identify, ping
from transport.quic.host import QuicHost

QUIC = ("/ip4/127.0.0.1/udp/0/quic-v1",)


@pytest.fixture(autouse=True, scope="module")
def p2pd():
    return find_p2pd()


@pytest.fixture
async def host():
    host = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    yield host
    await host.close()


def address_of(go):
    return Address.from_text(f"{go.addresses[0]}/p2p/{go.peer_id}")


async def test_we_dial_go(host):
    async with go_peer(listen=QUIC) as go:
        connection = await host.connect(go.peer_id, [address_of(go)], timeout_s=5)
        assert await ping(connection, os.urandom(32)) < 5
        assert "/ipfs/ping/1.0.0" in (await identify(connection)).protocols


async def test_go_dials_us(host):
    async with go_peer(listen=QUIC) as go:
        await go.connect(host.peer_id, str(host.addresses[0]).rpartition("/p2p/")[0])
        await go.ping(host.peer_id, 5)
        with pytest.raises(DaemonError):
            await go.open_stream(host.peer_id, "/nobody/speaks/this")


async def test_a_go_peer_of_another_identity_is_refused(host):
    async with go_peer(listen=QUIC) as go:
        there, other = address_of(go), KeyPair.generate().peer_id
        with pytest.raises(DialFailed):
            await host.connect(other, [Address(there.host, there.port, other)], timeout_s=3)
