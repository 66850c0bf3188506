"""The data socket and js-libp2p: QUIC-v1 with identify and ping, dialled from either side."""

import os

import pytest

from protocol.identity import KeyPair
from tests.interop import js_peer
from transport.address import Address
from transport.libp2p_identify import identify, ping
from transport.quic.host import QuicHost

pytestmark = pytest.mark.skipif(bool(js_peer.why_missing()), reason=js_peer.why_missing())


@pytest.fixture
async def js():
    peer = await js_peer.JsPeer.start()
    yield peer
    await peer.close()


@pytest.fixture
async def host():
    host = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    yield host
    await host.close()


async def test_we_dial_js(host, js):
    address = Address.from_text(js.address)
    connection = await host.connect(address.peer_id, [address], timeout_s=5)
    assert await ping(connection, os.urandom(32)) < 5
    assert "js-libp2p" in (await identify(connection)).agent


async def test_js_dials_us(host, js):
    assert (await js.ask("ping", str(host.addresses[0])))["ping_ms"] >= 0
    answer = await js.ask("identify", str(host.addresses[0]))
    assert answer["agent"] == "piecework"
    assert "/ipfs/ping/1.0.0" in answer["protocols"]
