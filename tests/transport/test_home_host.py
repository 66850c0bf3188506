"""A home host: every way to a peer at once, one connection for all who ask, and an orderly end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from protocol.errors import LocalProtocolError
from protocol.identity import KeyPair, PeerId
from tests.transport.conftest import ECHO, echo
from tests.transport.control_hosts import until
from tests.transport.home_relay import HomeRelay, settled_tasks
from transport.address import Address, CircuitAddress, TcpAddress
from transport.base import PathKind
from transport.control.testing import FakeControl, FakeControlHost
from transport.errors import DialFailed
from transport.home_host import ADDRESSES_MAX, HomeHost
from transport.lan.stream import LanStream
from transport.quic.stream import QuicStream
from transport.reach.attachment import CHECK_GAP_S, RelayState

StartHome = Callable[..., Awaitable[HomeHost]]


class Planes:
    """The control planes of the hosts, and how often one was made."""

    def __init__(self) -> None:
        self.network = FakeControl()
        self.made = 0
        self.start_s = 0.0
        self.error: Exception | None = None

    async def make(self, key: KeyPair) -> FakeControlHost:
        self.made += 1
        await asyncio.sleep(self.start_s)
        if self.error is not None:
            raise self.error
        return self.network.host(key, listens=False)


@pytest.fixture
async def planes() -> AsyncIterator[Planes]:
    made = Planes()
    yield made
    for host in made.network.hosts.values():
        await host.close()


@pytest.fixture
async def relay(planes: Planes) -> AsyncIterator[HomeRelay]:
    made = HomeRelay(planes.network)
    yield made
    await made.close()


@pytest.fixture
async def start(planes: Planes) -> AsyncIterator[StartHome]:
    hosts: list[HomeHost] = []

    async def start_home(*relays: HomeRelay, fast_lan: bool = False) -> HomeHost:
        host = await HomeHost.start(
            KeyPair.generate(),
            listen_host="127.0.0.1",
            relays=[relay.address for relay in relays],
            fast_lan=fast_lan,
            make_control=planes.make,
        )
        hosts.append(host)
        host.set_handler(ECHO, echo)
        await host.wait_settled(2)
        return host

    yield start_home
    for host in hosts:
        await host.close()


def nowhere(peer_id: PeerId) -> Address:
    """Where nobody listens; loopback, so that it is tried like a LAN address."""
    return Address("127.0.0.1", 9, peer_id)


def circuits(host: HomeHost) -> list[CircuitAddress]:
    return [address for address in host.addresses if isinstance(address, CircuitAddress)]


class TestControlPlane:
    async def test_is_never_started_by_a_host_that_stays_on_its_lan(self, start, planes):
        here, there = await start(), await start()
        await here.connect(there.peer_id, there.addresses, timeout_s=2)
        assert planes.made == 0
        assert here.relay_statuses == ()
        assert here.links == ()
        here.network_changed()

    async def test_is_started_once_however_many_need_it_first(self, start, planes, relay):
        planes.start_s = 0.05
        peers = [await start(relay) for _ in range(3)]
        here, made = await start(), planes.made
        await asyncio.gather(
            *(here.connect(peer.peer_id, circuits(peer), timeout_s=5) for peer in peers)
        )
        assert planes.made == made + 1

    async def test_goes_on_starting_when_the_dial_that_began_it_is_called_off(
        self, start, planes, relay
    ):
        first, second = await start(relay), await start(relay)
        here, made = await start(), planes.made
        planes.start_s = 0.3
        # The direct way wins before the control plane is there.
        slow = [nowhere(first.peer_id), *first.addresses]
        connection = await here.connect(first.peer_id, slow, timeout_s=5)
        assert connection.path_kind is PathKind.LAN
        await here.connect(second.peer_id, circuits(second), timeout_s=5)
        assert planes.made == made + 1

    async def test_that_cannot_start_fails_the_dial_and_is_tried_again(self, start, planes, relay):
        there, here = await start(relay), await start()
        planes.error = OSError("no more threads")
        with pytest.raises(DialFailed, match="no more threads"):
            await here.connect(there.peer_id, circuits(there), timeout_s=2)
        planes.error = None
        await here.connect(there.peer_id, circuits(there), timeout_s=5)

    async def test_that_cannot_start_at_first_fails_the_start_and_leaves_nothing(
        self, planes, relay
    ):
        planes.error = OSError("no more threads")
        before = len(asyncio.all_tasks())
        with pytest.raises(OSError, match="no more threads"):
            await HomeHost.start(
                KeyPair.generate(), listen_host="127.0.0.1", relays=[relay.address],
                make_control=planes.make,
            )  # fmt: skip
        assert await settled_tasks(before) == 0


class TestConnect:
    async def test_concurrent_callers_share_one_dial(self, start, relay):
        here, there = await start(), await start(relay)
        connections = await asyncio.gather(
            *(here.connect(there.peer_id, there.addresses, timeout_s=5) for _ in range(5))
        )
        assert len({connection.quic for connection in connections}) == 1
        await asyncio.sleep(0.05)
        assert len(there.connections()) == 1

    async def test_direct_way_wins_where_it_answers_and_the_other_leaves_nothing(
        self, start, relay, planes
    ):
        here, there = await start(), await start(relay)
        await asyncio.sleep(0.1)  # the NAT is measured
        before = len(asyncio.all_tasks())
        planes.network.delay_s = 0.05
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=5)
        assert connection.path_kind is PathKind.LAN
        assert here.links == ()
        await connection.close()
        assert await settled_tasks(before) == 0

    async def test_relay_wins_where_no_address_answers_and_the_dial_is_called_off(
        self, start, relay
    ):
        here, there = await start(), await start(relay)
        wanted = [nowhere(there.peer_id), *circuits(there)]
        connection = await here.connect(there.peer_id, wanted, timeout_s=5)
        assert len(here.links) == 1
        assert here.links[0].link.connection is connection.quic
        assert len(here.quic.endpoint.connections()) == 1

    async def test_living_connection_is_used_again_whatever_addresses_are_given(self, start):
        here, there = await start(), await start()
        first = await here.connect(there.peer_id, there.addresses, timeout_s=2)
        again = await here.connect(there.peer_id, (), timeout_s=2)
        assert again.quic is first.quic

    async def test_to_oneself_is_refused(self, start, relay):
        here = await start(relay)
        with pytest.raises(DialFailed, match="this node itself"):
            await here.connect(here.peer_id, here.addresses, timeout_s=2)

    async def test_to_nobody_names_every_attempt(self, start, relay):
        here, nobody = await start(relay), KeyPair.generate().peer_id
        wanted = [nowhere(nobody), CircuitAddress(relay.address, nobody)]
        with pytest.raises(DialFailed) as failed:
            await here.connect(nobody, wanted, timeout_s=0.5)
        tried = " ".join(attempt.address for attempt in failed.value.attempts)
        assert "/udp/9" in tried
        assert "p2p-circuit" in tried

    async def test_without_an_address_is_told_so(self, start):
        here = await start()
        with pytest.raises(DialFailed, match="no address known"):
            await here.connect(KeyPair.generate().peer_id, (), timeout_s=1)

    async def test_addresses_of_another_peer_are_not_believed(self, start, relay):
        here, there = await start(), await start(relay)
        pretended = KeyPair.generate().peer_id
        theirs = next(a for a in there.addresses if isinstance(a, Address))
        lies = [Address(theirs.host, theirs.port, pretended), *circuits(there)]
        with pytest.raises(DialFailed):
            await here.connect(pretended, lies, timeout_s=2)
        assert here.connections() == ()

    async def test_caller_who_is_cancelled_leaves_the_dial_to_the_others(self, start, relay):
        here, there = await start(), await start(relay)
        one, other = (
            asyncio.create_task(here.connect(there.peer_id, circuits(there), timeout_s=5))
            for _ in range(2)
        )
        await asyncio.sleep(0)
        one.cancel()
        assert (await other).peer_id == there.peer_id
        assert one.cancelled()

    async def test_at_an_address_that_was_typed_says_who_is_there(self, start):
        here, there = await start(), await start()
        connection = await here.connect_at("127.0.0.1", there.quic.port, timeout_s=2)
        assert connection.peer_id == there.peer_id


class TestClose:
    async def test_closed_host_dials_nobody(self, start):
        here = await start()
        await here.close()
        await here.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            await here.connect(KeyPair.generate().peer_id, (), timeout_s=1)

    async def test_while_dialling_tells_the_caller_and_leaves_no_task(self, start, relay, planes):
        before = len(asyncio.all_tasks())
        here, there = await start(), await start(relay)
        planes.network.delay_s = 1.0
        dial = asyncio.create_task(here.connect(there.peer_id, circuits(there), timeout_s=5))
        await asyncio.sleep(0.05)
        await here.close()
        with pytest.raises(DialFailed, match="closed"):
            await dial
        await there.close()
        assert await settled_tasks(before) == 0

    async def test_while_the_control_plane_starts_closes_that_too(self, start, relay, planes):
        there = await start(relay)
        await asyncio.sleep(0.1)  # its NAT is measured
        before = len(asyncio.all_tasks())
        here = await start()
        planes.start_s = 5.0
        dial = asyncio.create_task(here.connect(there.peer_id, circuits(there), timeout_s=5))
        await asyncio.sleep(0.05)
        await here.close()
        await asyncio.gather(dial, return_exceptions=True)
        assert await settled_tasks(before) == 0

    async def test_tells_every_peer_at_once_also_by_a_relay(self, start, relay):
        here, there = await start(relay), await start(relay)
        connection = await here.connect(there.peer_id, circuits(there), timeout_s=5)
        stream = await connection.open_stream(ECHO)
        await stream.send(b"x")
        await stream.receive()
        await here.close()
        await until(lambda: there.connections() == () and there.links == (), timeout_s=1)


class TestAddresses:
    async def test_come_near_first_then_by_relays(self, start, relay):
        here = await start(relay)
        near, *rest = here.addresses
        assert near == Address("127.0.0.1", here.quic.port, here.peer_id)
        assert rest[-1] == CircuitAddress(relay.address, here.peer_id)

    async def test_are_never_more_than_a_record_holds(self, start, planes, relay):
        here = await start(relay)
        here.whereabouts._client.observed = tuple((f"203.0.113.{n}", 7) for n in range(1, 5))
        assert len(here.addresses) <= ADDRESSES_MAX
        assert isinstance(here.addresses[-1], CircuitAddress)

    async def test_circuit_goes_when_the_relay_does(self, start, relay, planes):
        here = await start(relay)
        await planes.network.kill(relay.host.peer_id)
        await asyncio.sleep(CHECK_GAP_S + 0.02)
        here.network_changed()
        await until(lambda: not circuits(here))
        assert here.relay_statuses[0].state is RelayState.UNREACHABLE

    async def test_relay_that_does_not_answer_delays_the_start_no_longer_than_asked(self, planes):
        relay = TcpAddress("203.0.113.200", 4001, KeyPair.generate().peer_id)
        planes.network.delay_s = 3.0
        host = await HomeHost.start(
            KeyPair.generate(), listen_host="127.0.0.1", relays=[relay], fast_lan=False,
            make_control=planes.make,
        )  # fmt: skip
        async with asyncio.timeout(1):
            await host.wait_settled(0.1)
        assert host.relay_statuses[0].state is RelayState.CONNECTING
        await host.close()


class TestStreams:
    async def test_go_by_tcp_on_a_lan_and_by_quic_elsewhere(self, start):
        here, there = await start(fast_lan=True), await start(fast_lan=True)
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=2)
        assert connection.path_kind is PathKind.LAN
        kinds = set()
        for _ in range(2):
            stream = await connection.open_stream(ECHO)
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            kinds.add(type(stream))
        verdict = here.network_status()["connections"][0]["lan"]
        assert kinds == {LanStream if verdict["carrier"] == "tcp" else QuicStream}

    async def test_go_by_quic_over_a_relay(self, start, relay):
        here, there = await start(fast_lan=True), await start(relay, fast_lan=True)
        connection = await here.connect(there.peer_id, circuits(there), timeout_s=5)
        connection.quic.path.kind = PathKind.RELAYED
        stream = await connection.open_stream(ECHO)
        assert isinstance(stream, QuicStream)

    async def test_views_of_one_connection_are_of_the_same_one(self, start):
        here, there = await start(), await start()
        connection = await here.connect(there.peer_id, there.addresses, timeout_s=2)
        (view,) = here.connections()
        assert view.quic is connection.quic
        assert view.remote == connection.remote
        await view.close()
        assert here.connections() == ()


class TestNetworkChanged:
    async def test_checks_relays_and_punches_again(self, start, relay):
        here, there = await start(relay), await start(relay)
        await here.connect(there.peer_id, circuits(there), timeout_s=5)
        await until(lambda: len(there.links[0].link.punches) == 1)
        here.network_changed()
        await until(lambda: len(there.links[0].link.punches) == 2)
