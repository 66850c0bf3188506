"""What a host tells of its network side: plain values, with a reason for all that is not used."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from protocol.identity import KeyPair
from tests.transport.conftest import ECHO, echo
from tests.transport.control_hosts import until
from tests.transport.home_relay import HomeRelay
from transport.control.testing import FakeControl
from transport.errors import DialFailed
from transport.home_host import HomeHost
from transport.reach.messages import REACH_PROTOCOL


@pytest.fixture
async def network() -> AsyncIterator[FakeControl]:
    made = FakeControl()
    yield made
    for host in made.hosts.values():
        await host.close()


@pytest.fixture
async def relay(network: FakeControl) -> AsyncIterator[HomeRelay]:
    made = HomeRelay(network)
    yield made
    await made.close()


async def start(network: FakeControl, *relays: HomeRelay, fast_lan: bool = False) -> HomeHost:
    async def make(key: KeyPair):
        return network.host(key, listens=False)

    host = await HomeHost.start(
        KeyPair.generate(), listen_host="127.0.0.1", relays=[r.address for r in relays],
        fast_lan=fast_lan, make_control=make,
    )  # fmt: skip
    host.set_handler(ECHO, echo)
    await host.wait_settled(2)
    return host


async def test_lone_host_tells_that_it_has_nothing_yet(network):
    host = await start(network)
    status = json.loads(json.dumps(host.network_status()))
    assert status["relays"] == status["connections"] == status["reaching"] == []
    assert status["nat"] == {"mapping": "unknown", "filtering": "unknown", "observed": []}
    assert status["port_mapping"]["reason"] == "not asked for"
    assert status["addresses"] == [str(address) for address in host.addresses]
    await host.close()


async def test_relays_are_told_with_state_and_reason(network, relay):
    gone = HomeRelay(network)
    await network.kill(gone.host.peer_id)
    host = await start(network, relay, gone)
    await until(lambda: bool(host.network_status()["nat"]["observed"]))
    status = host.network_status()
    good, bad = status["relays"]
    assert (good["relay"], good["state"], good["reason"]) == (str(relay.address), "reserved", "")
    assert bad["state"] == "unreachable"
    assert "no answer" in bad["reason"]
    assert status["nat"]["mapping"] == "none"
    assert status["nat"]["observed"] == [f"127.0.0.1:{host.quic.port}"]
    await host.close()
    await gone.close()


async def test_reached_connection_is_told_with_every_path_and_punch(network, relay):
    here, there = await start(network), await start(network, relay)
    await here.connect(there.peer_id, there.addresses[-1:], timeout_s=5)
    await until(lambda: here.network_status()["connections"][0]["path_kind"] == "lan")
    (connection,) = json.loads(json.dumps(here.network_status()))["connections"]
    assert connection["peer_id"] == str(there.peer_id)
    assert connection["remote"] == f"127.0.0.1:{there.quic.port}"
    assert connection["round_trip_ms"] > 0
    assert len(connection["punches"]) == 1
    kinds = {path["kind"]: path for path in connection["paths"]}
    assert kinds["lan"]["is_current"]
    assert kinds["lan"]["reason"] == ""
    assert not kinds["relayed"]["is_current"]
    await here.close()
    await there.close()


async def test_connection_that_was_dialled_plainly_has_one_path_and_a_lan_verdict(network):
    here, there = await start(network, fast_lan=True), await start(network, fast_lan=True)
    connection = await here.connect(there.peer_id, there.addresses, timeout_s=2)
    await connection.open_stream(ECHO)
    (told,) = json.loads(json.dumps(here.network_status()))["connections"]
    (path,) = told["paths"]
    assert (path["kind"], path["is_current"]) == ("lan", True)
    assert told["lan"]["carrier"] in ("tcp", "quic")
    assert told["lan"]["reason"]
    await here.close()
    await there.close()


async def test_path_that_ended_has_its_reason_and_is_not_in_use(network):
    relay = HomeRelay(network, has_udp=False)
    here, there = await start(network), await start(network, relay)
    for host in (here, there):  # loopback is nobody else's: only the tunnel is left
        host.whereabouts._listen_host = "192.0.2.1"
    await here.connect(there.peer_id, there.addresses[-1:], timeout_s=5)
    assert here.network_status()["connections"][0]["has_tunnel"]
    here.links[0].remove_tunnel("cut for the test")
    ended = [
        path
        for path in here.network_status()["connections"][0]["paths"]
        if path["status"] == "ended"
    ]
    assert [(p["kind"], p["reason"], p["is_current"]) for p in ended] == [
        ("relayed", "cut for the test", False)
    ]
    await here.close()
    await there.close()
    await relay.close()


async def test_link_under_way_is_told_without_a_connection(network, relay):
    here, there = await start(network), await start(network, relay)
    network.hosts[there.peer_id].set_handler(REACH_PROTOCOL, None)
    network.delay_s = 0.05
    dial = asyncio.create_task(here.connect(there.peer_id, there.addresses[-1:], timeout_s=2))
    await until(lambda: bool(here.network_status()["reaching"]))
    assert here.network_status()["reaching"][0]["peer_id"] == str(there.peer_id)
    with pytest.raises(DialFailed):
        await dial
    await until(lambda: here.network_status()["reaching"] == [])
    await here.close()
    await there.close()
