"""Reflectors and the forwarder of a relay on loopback are asked, and liars are not believed."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator

import pytest

from protocol.datagram import Bind, Bound, Reflect, Reflected
from protocol.identity import KeyPair
from protocol.reach import Filtering, Mapping
from protocol.relay_messages import ForwardGrant
from relay.datagrams import RelayDatagrams
from relay.resources import Resources
from transport.diagnosis.bandwidth_probe import BIND_RETRY_S, Burst, is_saturated, measure_bandwidth
from transport.diagnosis.hops import first_hops
from transport.diagnosis.nat_probe import ReflectorPorts, observe_nat, reflect_rtt_s
from transport.diagnosis.nat_type import classify
from transport.errors import TimedOut
from transport.paths.forwarder_client import COOKIES_TAKEN_MAX


@pytest.fixture
async def relay():
    datagrams = RelayDatagrams.open("127.0.0.1", [0, 0], Resources())
    datagrams.start()
    yield datagrams
    datagrams.close()


@pytest.fixture
async def lying_reflector() -> AsyncIterator[ReflectorPorts]:
    """Answers every question: with other transactions, cut short, and at length."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))
    listening.setblocking(False)
    loop = asyncio.get_running_loop()

    def lie() -> None:
        data, source = listening.recvfrom(2048)
        true = Reflected(Reflect.decode(data).transaction, "6.6.6.6", 666).encode()
        for answer in (Reflected(b"12345678", "6.6.6.6", 666).encode(), true[:-1], true * 9):
            listening.sendto(answer, source)

    loop.add_reader(listening, lie)
    yield ReflectorPorts("127.0.0.1", (listening.getsockname()[1],))
    loop.remove_reader(listening)
    listening.close()


def grant_of(relay: RelayDatagrams, ports: tuple[int, ...]) -> ForwardGrant:
    peers = (KeyPair.generate().peer_id, KeyPair.generate().peer_id)
    granted = relay.forwarder.allocate(*peers, time.monotonic())
    return ForwardGrant(granted.circuit, *granted.secrets, "", ports, 0)


async def test_socket_without_a_nat_is_seen_as_it_is(relay):
    observed = await observe_nat([ReflectorPorts("127.0.0.1", relay.ports)], tcp_answers=True)
    nat = classify(observed)
    assert len(observed.sightings) == 2
    assert (nat.mapping, nat.filtering) == (Mapping.NONE, Filtering.OPEN)
    assert await reflect_rtt_s(ReflectorPorts("127.0.0.1", relay.ports)) < 1


async def test_reflector_without_another_port_leaves_the_filtering_unknown(relay):
    alone = RelayDatagrams.open("127.0.0.1", [0], Resources())
    alone.start()
    observed = await observe_nat([ReflectorPorts("127.0.0.1", alone.ports)], tcp_answers=True)
    alone.close()
    assert classify(observed).filtering is Filtering.UNKNOWN


async def test_answers_to_other_questions_are_not_believed(lying_reflector):
    assert await reflect_rtt_s(lying_reflector) is None


async def test_no_router_is_found_on_the_way_to_oneself():
    assert await first_hops("127.0.0.1", 9) == ()


async def test_loopback_is_faster_than_what_is_tried(relay):
    measured = await measure_bandwidth("127.0.0.1", grant_of(relay, relay.ports))
    assert measured.mbit_per_s > 1


async def test_forwarder_that_does_not_answer_is_a_timeout(relay):
    with pytest.raises(TimedOut, match="does not answer"):
        await measure_bandwidth("127.0.0.1", grant_of(relay, (9,)))


async def test_forwarder_that_never_binds_is_a_timeout_after_few_datagrams(relay):
    asked = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        grant = grant_of(relay, (listening.getsockname()[1],))

        def tell() -> None:
            data, source = listening.recvfrom(2048)
            asked.append(bind := Bind.decode(data))
            bound = Bound(grant.circuit, bind.side, bind.counter, True, False, os.urandom(8))
            listening.sendto(data, source)  # a mirror binds nobody either
            listening.sendto(bound.encode(grant.secret_ours), source)

        loop.add_reader(listening, tell)
        with pytest.raises(TimedOut, match="does not bind us"):
            await measure_bandwidth("127.0.0.1", grant)
        loop.remove_reader(listening)
    assert [bind.counter for bind in asked] == list(range(1, len(asked) + 1))
    assert len(asked) == len(BIND_RETRY_S) + COOKIES_TAKEN_MAX


@pytest.mark.parametrize(
    ("burst", "is_over"),
    [
        (Burst(100_000, 0.2, 100_000, 0.2), False),
        (Burst(100_000, 0.2, 95_000, 0.24), False),
        (Burst(100_000, 0.2, 100_000, 0.3), True),
        (Burst(100_000, 0.2, 80_000, 0.2), True),
    ],
    ids=["as sent", "a little less", "slower", "with holes"],
)
def test_burst_is_saturated_when_slower_or_with_holes(burst, is_over):
    assert is_saturated(burst) == is_over
