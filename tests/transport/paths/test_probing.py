import os

import pytest

from protocol.datagram import Probe
from protocol.errors import LocalProtocolError
from protocol.identity import KeyPair
from tests.transport.conftest import StartHost
from transport.paths.link import Link
from transport.paths.path_address import CircuitPath, TunnelPath
from transport.paths.probing import LINKS_MAX, WAITING_MAX, Probing

PEER = KeyPair.generate().peer_id


class TestProbing:
    async def test_an_endpoint_has_one(self, start_host: StartHost):
        host = await start_host()
        Probing(host.endpoint)
        with pytest.raises(LocalProtocolError):
            Probing(host.endpoint)

    async def test_links_are_bounded_and_each_is_there_once(self, start_host: StartHost):
        probing = Probing((await start_host()).endpoint)
        links = [
            Link(probing, number.to_bytes(8, "big"), bytes(32), PEER, is_initiator=True)
            for number in range(LINKS_MAX)
        ]
        with pytest.raises(LocalProtocolError):
            Link(probing, b"the last", bytes(32), PEER, is_initiator=True)
        links[0].close()
        with pytest.raises(LocalProtocolError, match="already"):
            Link(probing, links[1].link_id, bytes(32), PEER, is_initiator=True)
        for link in links:
            link.close()
            link.close()

    @pytest.mark.parametrize(("link_id", "key"), [(b"short", bytes(32)), (bytes(8), bytes(16))])
    async def test_a_link_needs_its_id_and_key(self, start_host: StartHost, link_id, key):
        with pytest.raises(LocalProtocolError):
            Link(Probing((await start_host()).endpoint), link_id, key, PEER, is_initiator=True)

    async def test_questions_to_reflectors_are_bounded(self, start_host: StartHost):
        probing = Probing((await start_host()).endpoint)
        for _ in range(WAITING_MAX):
            probing.expect_reflected(os.urandom(8), lambda reflected, source: None)
        with pytest.raises(LocalProtocolError):
            probing.expect_reflected(os.urandom(8), lambda reflected, source: None)

    async def test_what_comes_by_an_unknown_link_tunnel_or_circuit_is_counted(
        self, start_host: StartHost
    ):
        host = await start_host()
        probing = Probing(host.endpoint)
        probe = Probe(bytes(8), bytes(8)).encode(bytes(32))
        host.endpoint.inject([probe], TunnelPath(1))  # nobody registered it
        assert probing.counts.unknown_link == 0
        host.endpoint.register_tunnel(TunnelPath(1), lambda datagrams: None)
        host.endpoint.inject([probe, b"", b"\x08wrapped", b"\x06", b"\x0f"], TunnelPath(1))
        assert probing.counts.unknown_link == 1
        assert probing.counts.unexpected == 3
        host.endpoint.remove_tunnel(TunnelPath(1))
        host.endpoint.inject([probe], TunnelPath(1))
        assert probing.counts.unknown_link == 1

    async def test_closed_link_gives_its_circuit_up(self, start_host: StartHost):
        host = await start_host()
        link = Link(Probing(host.endpoint), bytes(8), bytes(32), PEER, is_initiator=True)
        path = CircuitPath(("127.0.0.1", 9), b"circuit1")
        link.add_circuit(path, 0, bytes(32))
        data = b"\x08circuit1inside"
        assert host.endpoint.paths.unwrap(data, path.relay) is not None
        link.close()
        assert host.endpoint.paths.unwrap(data, path.relay) is None
        assert link.over_reason == "closed by this side"
        link.add_circuit(path, 0, bytes(32))  # too late: nothing happens
        assert host.endpoint.paths.unwrap(data, path.relay) is None
