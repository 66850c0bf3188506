"""A node's slot at a relay: taken, kept, lost, and taken again."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from protocol.relay_messages import WHERE_PROTOCOL, Where
from tests.transport.control_hosts import until
from transport.address import CircuitAddress
from transport.control.base import ControlHost, ControlStream
from transport.control.circuit_messages import Status
from transport.control.messages import write_message
from transport.control.testing import FakeControl, FakeControlHost
from transport.reach.attachment import CHECK_GAP_S, CHECK_TIMEOUT_S, RelayAttachment, RelayState


class Slot:
    """One attachment of one host at one relay, and how often it said that something changed."""

    def __init__(self, network: FakeControl, relay: FakeControlHost, home: ControlHost) -> None:
        self.network, self.relay, self.home = network, relay, home
        self.changes: list[CircuitAddress | None] = []
        self.attachment = RelayAttachment(home, relay.addresses[0], self.on_change)

    def on_change(self) -> None:
        self.changes.append(self.attachment.address)

    @property
    def state(self) -> RelayState:
        return self.attachment.status.state

    async def reach(self, state: RelayState, timeout_s: float = 3.0) -> None:
        await until(lambda: self.state is state, timeout_s=timeout_s)


@pytest.fixture
async def slot() -> AsyncIterator[Slot]:
    network = FakeControl()
    made = Slot(network, network.relay(), network.host(listens=False))
    yield made
    await made.attachment.close()
    for host in network.hosts.values():
        await host.close()


def says(where: Where) -> Callable:
    async def serve(stream: ControlStream) -> None:
        await write_message(stream, where.encode())

    return serve


async def test_slot_is_taken_and_told(slot: Slot):
    slot.attachment.start()
    await slot.attachment.wait_settled()
    expected = CircuitAddress(slot.relay.addresses[0], slot.home.peer_id)
    assert slot.attachment.address == expected
    assert slot.changes == [expected]
    assert slot.state is RelayState.RESERVED
    assert slot.attachment.status.reason == ""
    assert slot.attachment.udp == ()


async def test_udp_side_is_asked_for_and_told(slot: Slot):
    slot.relay.set_handler(WHERE_PROTOCOL, says(Where("203.0.113.9", (4001, 4002))))
    slot.attachment.start()
    await slot.attachment.wait_settled()
    assert slot.attachment.udp == (("203.0.113.9", 4001), ("203.0.113.9", 4002))
    assert len(slot.changes) == 2


async def test_udp_side_without_a_host_is_where_the_relay_was_reached(slot: Slot):
    slot.relay.set_handler(WHERE_PROTOCOL, says(Where("", (4001,))))
    slot.attachment.start()
    await slot.attachment.wait_settled()
    assert slot.attachment.udp == ((slot.relay.addresses[0].host, 4001),)


async def test_nonsense_about_the_udp_side_costs_neither_slot_nor_stream(slot: Slot):
    async def lie(stream: ControlStream) -> None:
        await write_message(stream, b"\xff nonsense")

    slot.relay.set_handler(WHERE_PROTOCOL, lie)
    slot.attachment.start()
    await slot.attachment.wait_settled()
    assert slot.state is RelayState.RESERVED
    assert slot.attachment.udp == ()
    (connection,) = slot.home.connections()
    assert not connection.streams


async def test_refusal_is_told_with_its_reason_and_keeps_the_connection(slot: Slot):
    slot.relay.slot_refusal = Status.RESERVATION_REFUSED
    slot.attachment.start()
    await slot.attachment.wait_settled()
    assert slot.state is RelayState.REFUSED
    assert "slot" in slot.attachment.status.reason
    assert slot.attachment.address is None
    assert len(slot.home.connections()) == 1
    slot.relay.slot_refusal = None
    await slot.reach(RelayState.RESERVED)


async def test_relay_that_cannot_be_reached_is_tried_again_after_pauses(slot: Slot):
    slot.network.cut(slot.relay.peer_id, slot.home.peer_id)
    slot.attachment.start()
    await slot.attachment.wait_settled()
    assert slot.state is RelayState.UNREACHABLE
    await asyncio.sleep(0.6)
    assert 2 <= slot.network.dials[slot.relay.addresses[0]] <= 3
    slot.network.heal(slot.relay.peer_id, slot.home.peer_id)
    await slot.reach(RelayState.RESERVED)
    assert slot.changes[-1] is not None


async def test_relay_that_restarts_is_asked_anew_for_its_ports(slot: Slot):
    slot.relay.set_handler(WHERE_PROTOCOL, says(Where("203.0.113.9", (4001,))))
    slot.attachment.start()
    await slot.attachment.wait_settled()
    slot.relay.set_handler(WHERE_PROTOCOL, says(Where("203.0.113.9", (5001,))))
    slot.network.cut(slot.relay.peer_id, slot.home.peer_id)
    await asyncio.sleep(CHECK_GAP_S + 0.02)  # a renewal a moment ago is answer enough
    slot.attachment.check()
    await slot.reach(RelayState.UNREACHABLE)
    assert slot.attachment.udp == (("203.0.113.9", 4001),)
    slot.network.heal(slot.relay.peer_id, slot.home.peer_id)
    await until(lambda: slot.attachment.udp == (("203.0.113.9", 5001),))


async def test_check_drops_a_connection_that_died_without_a_word(slot: Slot):
    slot.attachment.start()
    await slot.attachment.wait_settled()
    (dead,) = slot.home.connections()
    await asyncio.sleep(CHECK_GAP_S + 0.02)
    slot.network.delay_s = 60.0  # nothing comes back
    slot.attachment.check()
    await slot.reach(RelayState.UNREACHABLE, CHECK_TIMEOUT_S + 1)
    assert dead.is_closed
    assert slot.attachment.address is None
    slot.network.delay_s = 0.0
    await slot.reach(RelayState.RESERVED)
    assert [change is None for change in slot.changes] == [False, True, False]


async def test_check_right_after_a_renewal_asks_nothing(slot: Slot):
    slot.attachment.start()
    await slot.attachment.wait_settled()
    before = slot.attachment.status.renew_s
    for _ in range(100):
        slot.attachment.check()
        await asyncio.sleep(0)
    assert slot.attachment.status.renew_s == before


async def test_many_checks_do_not_hammer_a_dead_relay(slot: Slot):
    slot.network.cut(slot.relay.peer_id, slot.home.peer_id)
    slot.attachment.start()
    for _ in range(60):
        slot.attachment.check()
        await asyncio.sleep(0.01)
    assert slot.network.dials[slot.relay.addresses[0]] <= 4


async def test_new_connection_is_given_its_time_even_when_checks_are_asked_for(slot: Slot):
    """A dial over a slow line takes longer than the test of a connection that is there."""
    slot.network.delay_s = 0.25  # four of these in a reservation
    slot.attachment.start()
    for _ in range(12):
        slot.attachment.check()
        await asyncio.sleep(0.1)
    await slot.reach(RelayState.RESERVED)


async def test_close_ends_the_task_in_any_state(slot: Slot):
    before = asyncio.all_tasks()
    slot.attachment.start()
    await slot.attachment.close()
    assert asyncio.all_tasks() == before


async def test_close_before_start_is_nothing(slot: Slot):
    await slot.attachment.close()


async def test_a_slot_that_went_with_its_connection_is_taken_again_at_once(slot: Slot):
    slot.attachment.start()
    await slot.reach(RelayState.RESERVED)
    (first,) = slot.home.connections()
    await first.close()
    await until(lambda: bool(slot.home.connections()), timeout_s=2)
    (second,) = slot.home.connections()
    assert second is not first
    await until(lambda: slot.home.peer_id in slot.relay.slots, timeout_s=2)


async def test_a_relay_that_drops_whomever_it_took_is_not_hammered(slot: Slot):
    slot.attachment.start()
    for _ in range(3):
        await until(lambda: bool(slot.relay.slots), timeout_s=5)
        for connection in slot.relay.connections():
            await connection.close()
    assert slot.network.dials[slot.relay.addresses[0]] <= 4
