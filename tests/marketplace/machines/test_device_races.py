"""Devices and machines at the same moment: one answer to a code, one key, one owner."""

import pytest

from marketplace.auth import Caller, Scope
from marketplace.errors import Conflict
from marketplace.keys.repository import KeyRepository
from marketplace.machines import devices, service
from marketplace.machines.devices import Purpose
from marketplace.machines.errors import ExpiredToken, TooManyMachines, UserCodeUnknown
from marketplace.machines.models import MachineRow
from protocol.identity import KeyPair
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals

pytestmark = on_postgresql


@pytest.fixture
async def callers(world):
    buyers = [await world.buyer() for _ in range(2)]
    return [Caller(buyer.account_id, buyer.key_id, frozenset(Scope)) for buyer in buyers]


@pytest.fixture
def peer():
    return str(KeyPair.generate().peer_id)


def begun(world, peer, purpose):
    with world.market.database.transaction() as session:
        return devices.begin(session, peer, "desk", purpose, now_s=world.clock.now)


def approval(world, caller, code):
    return lambda session: devices.approve(session, caller, code.user_code, now_s=world.clock.now)


async def test_a_code_is_approved_by_one_account(world, callers, peer):
    code, database = begun(world, peer, Purpose.MACHINE), world.market.database
    works = [approval(world, caller, code) for caller in callers]
    outcomes = overlapping(database, works[0], in_transaction(database, works[1]))
    assert refusals(outcomes) == [UserCodeUnknown]
    with database.reading() as session:
        assert service.account_of(session, peer) == callers[0].account_id


async def test_what_is_denied_is_not_approved_beside_it(world, callers, peer):
    code, database = begun(world, peer, Purpose.MACHINE), world.market.database
    outcomes = overlapping(
        database,
        lambda session: devices.deny(session, code.user_code, now_s=world.clock.now),
        in_transaction(database, approval(world, callers[0], code)),
    )
    assert refusals(outcomes) == [UserCodeUnknown]
    with database.reading() as session:
        assert service.account_of(session, peer) is None


async def test_a_device_that_asks_twice_at_once_gets_one_key(world, callers, peer):
    code, database = begun(world, peer, Purpose.KEY), world.market.database
    with database.transaction() as session:
        approval(world, callers[0], code)(session)

    def ask(session):
        return devices.ask(session, peer, code.device_code, now_s=world.clock.now)

    outcomes = overlapping(database, ask, in_transaction(database, ask))
    assert refusals(outcomes) == [ExpiredToken]
    with database.reading() as session:
        # its first key, and the device's
        assert len(KeyRepository(session).of_account(callers[0].account_id)) == 2


async def test_a_machine_that_nobody_has_is_bound_by_one_of_two_codes(world, callers, peer):
    database = world.market.database
    works = [approval(world, caller, begun(world, peer, Purpose.MACHINE)) for caller in callers]
    outcomes = overlapping(database, works[0], in_transaction(database, works[1]))
    assert refusals(outcomes) == [Conflict]
    with database.reading() as session:
        assert service.account_of(session, peer) == callers[0].account_id
        assert [len(service.history(session, c.account_id)) for c in callers] == [1, 0]


async def test_the_last_place_for_a_machine_is_taken_once(world, callers, peer):
    account_id, database = callers[0].account_id, world.market.database
    with database.transaction() as session:
        session.add_all(
            MachineRow(peer_id=f"m{number}", account_id=account_id, name="m", bound_at_s=1)
            for number in range(service.MACHINES_MAX - 1)
        )

    def bind(peer_id):
        return lambda session: service.bind(
            session, peer_id, account_id, "m", bound_by="test", now_s=world.clock.now
        )

    outcomes = overlapping(database, bind(peer), in_transaction(database, bind("another")))
    assert refusals(outcomes) == [TooManyMachines]
