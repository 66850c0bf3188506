import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from transport.libp2p_identify import (
    IDENTIFY_PROTOCOL,
    PING_PROTOCOL,
    Identity,
    identify,
    ping,
)
from transport.quic.host import QuicHost


@pytest.fixture
async def pair():
    here = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    there = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
    yield connection, there
    await here.close()
    await there.close()


async def test_a_ping_comes_back(pair):
    connection, _ = pair
    assert 0 < await ping(connection, os.urandom(32)) < 5


async def test_identify_names_key_addresses_and_protocols(pair):
    connection, there = pair

    async def serve(_stream):
        return

    there.set_handler("/piecework/session/1", serve)
    identity = await identify(connection)
    assert identity.public_key.endswith(there.peer_id.public_key)
    assert identity.agent == "piecework"
    assert {PING_PROTOCOL, IDENTIFY_PROTOCOL, "/piecework/session/1"} <= set(identity.protocols)
    (address,) = identity.listen_addresses
    assert address[:5] == bytes((4, 127, 0, 0, 1))


async def test_a_peer_that_names_another_key_is_refused(pair):
    connection, there = pair

    async def lie(stream):
        body = Identity(public_key=bytes(36)).encode()
        await stream.send(bytes((len(body),)) + body)

    there.set_handler(IDENTIFY_PROTOCOL, lie)
    with pytest.raises(RemoteProtocolError, match="another key"):
        await identify(connection)


def test_a_message_survives_its_encoding():
    identity = Identity(b"key", [b"a", b"bc"], ["/x/1"], b"seen")
    assert Identity.decode(identity.encode()) == identity


@given(st.binary(max_size=64))
def test_strangers_bytes_raise_nothing_but_our_error(data):
    with contextlib.suppress(RemoteProtocolError):
        Identity.decode(data)
