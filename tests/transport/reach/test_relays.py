"""UDP circuits asked of relays, and all the slots of a node together."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from protocol.relay_messages import FORWARD_PROTOCOL
from tests.transport.control_hosts import until
from tests.transport.home_relay import HomeRelay
from transport.control.base import ControlStream
from transport.control.messages import write_message
from transport.control.testing import FakeControl
from transport.errors import DialFailed, ProtocolNotSupported, RelayRefused, TimedOut
from transport.reach.relays import RELAYS_MAX, Relays

OTHER = KeyPair(bytes(31) + b"\7").peer_id


@pytest.fixture
async def network() -> AsyncIterator[FakeControl]:
    made = FakeControl()
    yield made
    for host in made.hosts.values():
        await host.close()


@pytest.fixture
async def relay(network: FakeControl) -> AsyncIterator[HomeRelay]:
    made = HomeRelay(network, circuits_max=2)
    yield made
    await made.close()


def relays_of(network: FakeControl, *relays: HomeRelay) -> Relays:
    home = network.host(listens=False)
    return Relays(home, [relay.address for relay in relays], lambda: None)


async def test_circuit_is_granted_and_freed_when_it_is_closed(network, relay):
    relays = relays_of(network)
    circuit = await relays.allocate(relay.address, OTHER, timeout_s=1)
    assert circuit.host == "127.0.0.1"
    assert circuit.grant.ports == relay.datagrams.ports
    assert relay.circuit_count == 1
    assert not circuit.is_ended
    await circuit.close()
    await until(lambda: relay.circuit_count == 0)
    assert circuit.is_ended
    await circuit.close()


async def test_refusal_carries_the_relays_reason(network, relay):
    relays = relays_of(network)
    held = [await relays.allocate(relay.address, OTHER, timeout_s=1) for _ in range(2)]
    with pytest.raises(RelayRefused, match="circuits_per_peer_max"):
        await relays.allocate(relay.address, OTHER, timeout_s=1)
    for circuit in held:
        await circuit.close()


async def test_circuit_that_the_relay_took_back_is_noticed(network, relay):
    circuit = await relays_of(network).allocate(relay.address, OTHER, timeout_s=1)
    relay.datagrams.forwarder.release(circuit.grant.circuit)
    await relay.forwarding.sweep()
    await until(lambda: circuit.is_ended)
    await circuit.close()


async def test_circuit_of_a_relay_that_dies_is_noticed(network, relay):
    circuit = await relays_of(network).allocate(relay.address, OTHER, timeout_s=1)
    await network.kill(relay.host.peer_id)
    await until(lambda: circuit.is_ended)
    await circuit.close()


async def test_relay_that_is_gone_is_a_failed_dial(network, relay):
    await network.kill(relay.host.peer_id)
    with pytest.raises(DialFailed, match="no answer"):
        await relays_of(network).allocate(relay.address, OTHER, timeout_s=1)


async def test_relay_without_a_forwarder_is_told_apart(network):
    plain = HomeRelay(network, has_udp=False)
    with pytest.raises(ProtocolNotSupported):
        await relays_of(network).allocate(plain.address, OTHER, timeout_s=1)


class TestStreamOfTheRequest:
    async def ask(self, network: FakeControl, answer: bytes | None):
        """A relay that answers with that, or not at all; its stream, and the asking task."""
        relay = network.relay()
        got: asyncio.Future[ControlStream] = asyncio.get_running_loop().create_future()

        async def serve(stream: ControlStream) -> None:
            got.set_result(stream)
            if answer is not None:
                await write_message(stream, answer)
            while await stream.read(4096):
                pass

        relay.set_handler(FORWARD_PROTOCOL, serve)
        home = network.host(listens=False)
        relays = Relays(home, (), lambda: None)
        asking = asyncio.create_task(
            relays.allocate(relay.addresses[0], OTHER, timeout_s=0.3 if answer is None else 2)
        )
        await got
        return home, asking

    async def test_is_reset_when_the_caller_is_cancelled(self, network):
        home, asking = await self.ask(network, None)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert not home.connections()[0].streams

    async def test_is_reset_when_no_answer_comes(self, network):
        home, asking = await self.ask(network, None)
        with pytest.raises(TimedOut):
            await asking
        assert not home.connections()[0].streams

    async def test_is_reset_after_nonsense(self, network):
        home, asking = await self.ask(network, b"\xa1nonsense")
        with pytest.raises(RemoteProtocolError):
            await asking
        assert not home.connections()[0].streams


class TestSlots:
    async def test_all_relays_are_reserved_up_to_the_limit(self, network):
        made = [HomeRelay(network, has_udp=False) for _ in range(RELAYS_MAX + 2)]
        relays = relays_of(network, *made, made[0])
        relays.start()
        await relays.wait_settled(2)
        assert [address.relay for address in relays.addresses] == [
            relay.address for relay in made[:RELAYS_MAX]
        ]
        await relays.close()

    async def test_waiting_ends_in_time_when_a_relay_does_not_answer(self, network):
        network.delay_s = 5
        relays = relays_of(network, HomeRelay(network, has_udp=False))
        relays.start()
        before = asyncio.all_tasks()
        await relays.wait_settled(0.1)
        assert asyncio.all_tasks() == before
        assert relays.addresses == ()
        await relays.close()

    async def test_udp_sides_of_all_are_told(self, network, relay):
        other = HomeRelay(network)
        relays = relays_of(network, relay, other)
        relays.start()
        await relays.wait_settled(2)
        expected = [("127.0.0.1", p) for r in (relay, other) for p in r.datagrams.ports]
        assert list(relays.udp) == expected
        await relays.close()
        await other.close()
