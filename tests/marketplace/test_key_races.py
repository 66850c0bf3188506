"""Keys at the same moment: budgets and counts hold to the last nano."""

import secrets

import pytest

from marketplace.errors import Conflict
from marketplace.keys import budgets, service
from marketplace.keys.errors import KeyBudgetSpent, KeyBusy
from marketplace.keys.repository import BudgetRepository, KeyRepository
from marketplace.keys.service import KeyLimits
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals

pytestmark = on_postgresql

INFERENCE = frozenset({"inference"})


@pytest.fixture
async def buyer(world):
    return await world.buyer()


def limited(world, buyer, **limits) -> str:
    with world.market.database.transaction() as session:
        return service.create(
            session, buyer.account_id, "k", INFERENCE, now_s=world.clock.now,
            limits=KeyLimits(**limits),
        ).key_id  # fmt: skip


def reserving(world, key_id, nanos, hold_id=None):
    hold_id = hold_id or secrets.token_bytes(16)
    return lambda session: budgets.reserve(session, key_id, hold_id, nanos, now_s=world.clock.now)


def budget_of(world, key_id):
    with world.market.database.reading() as session:
        assert BudgetRepository(session).unlike_their_holds(1) == []
        budget_id = KeyRepository(session).find(key_id).budget_id
        budget = BudgetRepository(session).lock(budget_id)
        return budget.reserved_nanos, budget.spent_nanos, budget.open_sessions


async def test_two_holds_at_once_share_a_budget(world, buyer):
    key_id, database = limited(world, buyer, spend_limit_nanos=100), world.market.database
    work = reserving(world, key_id, 60)
    other = reserving(world, key_id, 60)
    outcomes = overlapping(database, work, in_transaction(database, other))
    assert refusals(outcomes) == [KeyBudgetSpent]
    assert budget_of(world, key_id) == (60, 0, 1)


async def test_the_last_open_session_is_one_of_two(world, buyer):
    key_id, database = limited(world, buyer, parallel_max=1), world.market.database
    outcomes = overlapping(
        database, reserving(world, key_id, 1), in_transaction(database, reserving(world, key_id, 1))
    )
    assert refusals(outcomes) == [KeyBusy]
    assert budget_of(world, key_id) == (1, 0, 1)


async def test_a_hold_is_settled_by_one_of_two_workers(world, buyer):
    key_id, database = limited(world, buyer, spend_limit_nanos=100), world.market.database
    hold_id = secrets.token_bytes(16)
    with database.transaction() as session:
        reserving(world, key_id, 60, hold_id)(session)

    def settle(session):
        return budgets.settle(session, hold_id, 10)

    assert overlapping(database, settle, in_transaction(database, settle)) == [True, False]
    assert budget_of(world, key_id) == (0, 10, 0)


async def test_a_session_that_ends_while_its_hold_is_settled_ends_once(world, buyer):
    key_id, database = limited(world, buyer, parallel_max=2), world.market.database
    hold_id = secrets.token_bytes(16)
    with database.transaction() as session:
        reserving(world, key_id, 60, hold_id)(session)
    outcomes = overlapping(
        database,
        lambda session: budgets.finish(session, [hold_id]),
        in_transaction(database, lambda session: budgets.settle(session, hold_id, 10)),
    )
    assert outcomes == [None, True]
    assert budget_of(world, key_id) == (0, 10, 0)


async def test_a_day_begins_once(world, buyer):
    limits = {"spend_limit_nanos": 100, "spend_reset": service.Reset.DAY}
    key_id, database = limited(world, buyer, **limits), world.market.database
    with database.transaction() as session:
        reserving(world, key_id, 90)(session)
    world.pass_time(86_400)
    outcomes = overlapping(
        database,
        reserving(world, key_id, 60),
        in_transaction(database, reserving(world, key_id, 60)),
    )
    assert refusals(outcomes) == [KeyBudgetSpent]
    assert budget_of(world, key_id)[:2] == (60, 0)


async def test_the_last_key_of_an_account_is_made_once(world, buyer):
    database, now_s = world.market.database, world.clock.now

    def make(session):
        return service.create(session, buyer.account_id, "k", INFERENCE, now_s=now_s)

    with database.transaction() as session:
        for _ in range(service.KEYS_MAX - 2):
            make(session)
    outcomes = overlapping(database, make, in_transaction(database, make))
    assert refusals(outcomes) == [Conflict]


async def test_a_key_is_replaced_by_one_of_two_that_share_its_budget(world, buyer):
    key_id, database = limited(world, buyer, spend_limit_nanos=100), world.market.database

    def rotate(session):
        return service.rotate(
            session, buyer.account_id, key_id, overlap_s=0, now_s=world.clock.now
        )[0]

    outcomes = overlapping(database, rotate, in_transaction(database, rotate))
    assert refusals(outcomes) == [Conflict]


async def test_two_processes_note_the_uses_of_the_same_keys(world, buyer):
    """Each as it came upon them: written in that order, they would wait in a circle."""
    keys, database = [limited(world, buyer) for _ in range(2)], world.market.database
    low, high = sorted(keys)

    def note(*uses):
        return lambda session: KeyRepository(session).note_uses(dict.fromkeys(uses, 7))

    outcomes = overlapping(
        database, note(low), in_transaction(database, note(high, low)), then=note(high)
    )
    assert refusals(outcomes) == []
