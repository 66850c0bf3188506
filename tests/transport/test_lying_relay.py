"""A relay that lies may slow its users down, or not serve them; their streams stay whole."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from time import monotonic

import pytest

from protocol.reach import Candidate, CandidateKind, NATHints
from tests.hostile import nothing_unhandled
from tests.netlab.lab import Lab
from tests.netlab.requirements import needs_lab
from tests.transport.conftest import StartHost
from tests.transport.home_network import Network, Victim, circuits_of, home_network, whole
from tests.transport.hostile_pair import HostilePair, Session, hostile_pair
from tests.transport.lying_relay import LyingRelay
from transport.address import Address
from transport.base import PathKind
from transport.control.circuit_messages import Status
from transport.errors import DialFailed
from transport.home_host import HomeHost
from transport.paths.forwarder_client import RETRY_S, BindingState
from transport.paths.holepunch import INTERVAL_S
from transport.paths.path_address import CircuitPath
from transport.reach.attachment import RelayState


@pytest.fixture
def victim() -> Iterator[Victim]:
    made = Victim()
    yield made
    made.socket.close()


async def relayed(pair: HostilePair) -> Session:
    pair.bind()
    await pair.connect()
    return Session(pair.connection, seed=7, sizes=(1, 100, 5000))


class TestForwarder:
    @pytest.mark.parametrize("lie", ["lost", "doubled", "delayed", "damaged", "all"])
    async def test_stream_is_whole_whatever_it_does_to_datagrams(
        self, start_host: StartHost, lie: str
    ):
        relay = LyingRelay()
        async with hostile_pair(start_host, relay) as pair:
            with nothing_unhandled():
                session = await relayed(pair)
                shares = {"lost": 0.3, "doubled": 0.5, "delayed": 0.5, "damaged": 0.2}
                for name in shares if lie == "all" else [lie]:
                    setattr(relay, name, shares[name] / (2 if lie == "all" else 1))
                await session.reach(15, timeout_s=15)
                relay.lost = relay.doubled = relay.delayed = relay.damaged = 0.0
                await session.stop()
                assert pair.connection.path_kind is PathKind.RELAYED

    async def test_datagrams_of_other_circuits_reach_no_stream(self, start_host: StartHost):
        relay = LyingRelay()
        async with hostile_pair(start_host, relay) as one, hostile_pair(start_host, relay) as other:
            with nothing_unhandled():
                sessions = [await relayed(pair) for pair in (one, other)]
                relay.is_mixing = True
                for pair in (one, other):
                    pair.links[0].network_changed()  # probes and binds in the mixture
                for session in sessions:
                    await session.reach(30)
                for session in sessions:
                    await session.stop()
            for pair in (one, other):
                host, probing = pair.hosts[0], pair.probings[0]
                assert host.statistics().counts.forwarded_dropped > 20
                assert host.statistics().counts.unroutable_dropped > 20
                assert probing.counts.unknown_link > 0
                assert pair.connection.remote.endswith(pair.circuit.hex())

    async def test_bound_for_everything_is_believed_only_if_sealed(self, start_host: StartHost):
        """A forged BOUND says nothing; a true one that forwards nothing leaves the direct path."""
        relay = LyingRelay()
        relay.binds_all = True
        async with hostile_pair(start_host, relay) as pair:
            with nothing_unhandled():
                link = pair.links[0]
                link.add_circuit(CircuitPath(relay.address, os.urandom(8)), 0, os.urandom(32))
                pair.bind()
                await asyncio.sleep(0.2)
                forged, sealed = link.circuits
                assert (forged.state, sealed.state) == (BindingState.BINDING, BindingState.BOUND)
                assert sealed.is_other_bound
                assert link.path is None
                pair.punch()
                await pair.connect()
                session = Session(pair.connection, seed=3)
                await session.reach(10)
                await session.stop()
                silent = [report for report in link.reports if report.path.startswith("relay")]
                assert [report.reason for report in silent] == ["new", "new"]

    async def test_circuit_of_whom_nothing_comes_is_a_reason(self, start_host: StartHost):
        relay = LyingRelay()
        relay.binds_all = True
        async with hostile_pair(start_host, relay) as pair:
            pair.bind()
            with pytest.raises(DialFailed, match="no path answered") as raised:
                await pair.links[0].connect(0.5)
            assert any(a.address.startswith("relay") for a in raised.value.attempts)


class TestReflector:
    async def test_punch_at_a_victim_is_a_trickle(self, start_host: StartHost, victim: Victim):
        """A false observed address sends probes there: so many a second, 35 bytes, and an end."""
        async with hostile_pair(start_host, LyingRelay()) as pair:
            with nothing_unhandled():
                session = await relayed(pair)
                own = [Candidate(CandidateKind.LAN, "127.0.0.1", 1)]
                lie = [Candidate(CandidateKind.OBSERVED, *victim.address)]
                began = monotonic()
                pair.links[0].punch(own, lie, NATHints(), NATHints(), began)
                await session.reach(session.count + 30)
                await asyncio.sleep(1.0)
                elapsed_s = monotonic() - began
                taken = victim.taken()
                assert 0 < len(taken) <= 2 + elapsed_s / (INTERVAL_S / 2)
                assert {len(data) for data in taken} == {35}
                await session.stop()


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with home_network() as made:
        yield made


class TestHomeHost:
    async def test_false_observed_address_costs_the_victim_little_and_nobody_a_session(
        self, network: Network, victim: Victim
    ):
        lying, relay = network.relay()
        lying.victim = victim.address
        with nothing_unhandled():
            a, b = await network.home(relay), await network.home(relay)
            told = Address(*victim.address, a.peer_id)
            assert told in a.addresses  # there is nobody else to ask
            connection = await b.connect(a.peer_id, a.addresses, timeout_s=5)
            assert not connection.remote.startswith(victim.address[0])
            await whole(connection)
            taken = victim.taken()
            assert len(taken) < 20
            assert sum(map(len, taken)) < 20 * 1200

    async def test_relay_that_grants_slots_and_refuses_circuits_is_named(self, network: Network):
        _, relay = network.relay()
        a, b = await network.home(relay), await network.home(relay)
        relay.circuit_refusal = Status.RESOURCE_LIMIT_EXCEEDED
        assert a.relay_statuses[0].state is RelayState.RESERVED
        with nothing_unhandled():
            with pytest.raises(DialFailed, match="RESOURCE_LIMIT_EXCEEDED"):
                await b.connect(a.peer_id, circuits_of(a), timeout_s=5)
            assert not b.links

    async def test_another_relay_of_the_peer_is_taken_instead(self, network: Network):
        (_, lying), (_, honest) = network.relay(), network.relay()
        a, b = await network.home(lying, honest), await network.home()
        lying.circuit_refusal = Status.NO_RESERVATION
        with nothing_unhandled():
            await whole(await b.connect(a.peer_id, circuits_of(a), timeout_s=5))

    async def test_relay_that_lends_no_udp_circuit_leaves_the_other_ways(
        self, network: Network, caplog
    ):
        lying, relay = network.relay()
        lying.refuses = True
        a, b = await network.home(relay), await network.home(relay)
        with nothing_unhandled(), caplog.at_level(logging.INFO):
            await whole(await b.connect(a.peer_id, circuits_of(a), timeout_s=5))
        assert "forwarder.circuits_max is 1" in caplog.text

    async def test_circuit_granted_at_a_victims_address_is_a_trickle(
        self, network: Network, victim: Victim
    ):
        lying, relay = network.relay()
        a, b = await network.home(relay), await network.home(relay)
        lying.grants_at = victim.address
        with nothing_unhandled():
            began = monotonic()
            connection = await b.connect(a.peer_id, circuits_of(a), timeout_s=5)
            await whole(connection)
            await asyncio.sleep(0.5)
            elapsed_s = monotonic() - began
            taken = victim.taken()
            # Both sides bind and ask the reflector there.
            assert 0 < len(taken) <= 8 + 4 * elapsed_s / RETRY_S
            assert max(map(len, taken)) <= 64


@needs_lab
async def test_homes_that_only_a_lying_relay_joins_have_whole_sessions(network: Network):
    """Behind two symmetric NATs there is no other way."""
    with Lab(pool="global") as lab:
        machine = lab.public("relay")
        with machine.enter():
            lying, relay = network.relay(machine.ip)
        hosts: list[HomeHost] = []
        for name in ("ra", "rb"):
            home = lab.home(name, nat="symmetric").host(f"{name}-machine")
            with home.enter():
                hosts.append(await network.home(relay, listen_host=home.ip))
        with nothing_unhandled():
            a, b = hosts
            connection = await b.connect(a.peer_id, circuits_of(a), timeout_s=5)
            session = Session(connection, seed=11, sizes=(1, 100, 5000))
            lying.lost, lying.doubled, lying.delayed, lying.damaged = 0.1, 0.3, 0.3, 0.05
            lying.is_mixing = True
            await session.reach(30, timeout_s=15)
            assert connection.path_kind is PathKind.RELAYED
            assert lying.forwarded_count > 60
            await session.stop()
        await network.close()
