"""The host of every program, and what its status page tells of the network."""

import json

from node.app.network import network_view, start_host
from node.app.node_check import node_findings
from node.config import NetworkOptions
from protocol.identity import KeyPair
from transport.base import PathKind
from transport.diagnosis.finding import Level
from transport.home_host import HomeHost
from transport.testing import FakeNetwork

RELAY = f"/ip4/127.0.0.1/tcp/9/p2p/{KeyPair(bytes(32)).peer_id}"


async def test_relay_that_does_not_answer_is_told_and_stops_nothing():
    told: list[str] = []
    host = await start_host(
        KeyPair.generate(), NetworkOptions("127.0.0.1", 0, (RELAY,)), (), told.append
    )
    assert len(told) == 1
    assert told[0].startswith("relay 127.0.0.1: unreachable ")
    assert network_view(host)["network"]["relays"][0]["relay"] == RELAY
    await host.close()


async def test_relays_of_the_pool_serve_where_none_is_named_and_unknown_ones_are_left_out():
    told: list[str] = []
    options = NetworkOptions("127.0.0.1", 0)
    host = await start_host(KeyPair.generate(), options, ["/dns/of-tomorrow", RELAY], told.append)
    assert len(told) == 1
    await host.close()


async def test_status_page_tells_paths_as_doctor_reads_them():
    here, there = [
        await HomeHost.start(KeyPair.generate(), listen_host="127.0.0.1") for _ in range(2)
    ]
    assert network_view(here)["paths"] == []
    await here.connect(there.peer_id, there.addresses, timeout_s=2)
    page = json.loads(json.dumps({"role": "provider", **network_view(here)}))
    (path,) = page["paths"]
    assert path["peer_id"] == str(there.peer_id)
    assert (path["kind"], path["is_current"], path["reason"]) == (PathKind.LAN, True, "")
    _, finding = node_findings(page)
    assert finding.level is Level.OK
    assert "1 lan" in finding.text
    await here.close()
    await there.close()


async def test_host_of_another_make_tells_nothing():
    network = FakeNetwork()
    assert network_view(network.host()) == {}
