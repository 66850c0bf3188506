"""Typed addresses: dialled, recognised by their certificate, dialled again."""

import asyncio

import pytest

from protocol.errors import LocalProtocolError
from protocol.identity import KeyPair
from tests.transport.conftest import StartHost
from transport.lan.static import PEERS_MAX, StaticDiscovery, parse_host_port
from transport.quic.host import QuicHost


class TestParse:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("192.168.1.20:4001", ("192.168.1.20", 4001)),
            ("[fd00::7]:4001", ("fd00::7", 4001)),
            ("attic.local:4001", ("attic.local", 4001)),
        ],
    )
    def test_addresses_and_names(self, text, expected):
        assert parse_host_port(text) == expected

    @pytest.mark.parametrize(
        "text", ["", "attic", "attic:", ":4001", "attic:0", "attic:65536", "fd00::7:4001", "a:-1"]
    )
    def test_anything_else_is_told_how_to_write_it(self, text):
        with pytest.raises(LocalProtocolError, match="HOST:PORT"):
            parse_host_port(text)

    def test_number_of_addresses_is_bounded(self):
        with pytest.raises(LocalProtocolError):
            StaticDiscovery(None, [f"10.0.0.1:{port}" for port in range(1, PEERS_MAX + 2)])


class Seen:
    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[str, object]] = asyncio.Queue()

    async def start(self, discovery: StaticDiscovery) -> None:
        await discovery.start(
            lambda sighting: self.events.put_nowait(("found", sighting)),
            lambda peer_id: self.events.put_nowait(("lost", peer_id)),
        )

    async def next(self):
        return await asyncio.wait_for(self.events.get(), 5)


def impatient(host: QuicHost, *peers: str) -> StaticDiscovery:
    return StaticDiscovery(host, peers, dial_timeout_s=0.3, retry_min_s=0.05, check_s=0.05)


async def test_peer_is_found_lost_and_found_again(start_host: StartHost):
    here, there = await start_host(), await start_host()
    port = there.addresses[0].port
    discovery, seen = impatient(here, f"127.0.0.1:{port}"), Seen()
    await seen.start(discovery)
    what, sighting = await seen.next()
    assert what == "found"
    assert sighting.peer_id == there.peer_id
    assert sighting.addresses == there.addresses
    assert sighting.cluster == ""
    assert discovery.peers[0].problem == ""

    await there.close()
    assert await seen.next() == ("lost", there.peer_id)
    assert "127.0.0.1" in discovery.peers[0].problem

    another = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1", port=port)
    what, sighting = await seen.next()
    assert (what, sighting.peer_id) == ("found", another.peer_id)
    await discovery.close()
    await another.close()


async def test_nobody_there_is_a_problem_to_show_and_no_exception(start_host: StartHost):
    here = await start_host()
    discovery, seen = impatient(here, "127.0.0.1:1", "127.0.0.1:2"), Seen()
    await seen.start(discovery)
    async with asyncio.timeout(5):
        while not all(peer.problem for peer in discovery.peers):
            await asyncio.sleep(0.01)
    assert seen.events.empty()
    await discovery.close()
