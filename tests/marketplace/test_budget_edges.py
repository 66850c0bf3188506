"""A key's budget where clocks differ, and where the ledger knows more than the budget."""

import secrets

import pytest

from ledger.book import Book
from ledger.settle_window import mark_closed, settle_ready
from marketplace.keys import budgets, service
from marketplace.keys.errors import KeyBudgetSpent
from marketplace.keys.periods import Reset
from marketplace.keys.service import KeyLimits
from tests.postgres import both_engines

pytestmark = both_engines

DAY_S = 24 * 3600
LIMIT_NANOS = 100


@pytest.fixture
async def buyer(world):
    return await world.buyer(dollars=1)


@pytest.fixture
async def key_id(world, buyer):
    with world.market.database.transaction() as session:
        limits = KeyLimits(spend_limit_nanos=LIMIT_NANOS, spend_reset=Reset.DAY)
        scopes, now_s = frozenset({"inference"}), world.clock.now
        key = service.create(session, buyer.account_id, "x", scopes, now_s=now_s, limits=limits)
        return key.key_id


def reserve(world, key_id, nanos, *, now_s=None) -> bytes:
    hold_id, now_s = secrets.token_bytes(16), now_s or world.clock.now
    with world.market.database.transaction() as session:
        budgets.reserve(session, key_id, hold_id, nanos, now_s=now_s)
    return hold_id


async def listed(world, buyer) -> tuple[int, int]:
    """Spent and reserved of the buyer's limited key."""
    answer = await world.http.get("/v1/keys", headers=buyer.headers)
    row = next(key for key in answer.json()["data"] if key["spend_limit_nanos"] is not None)
    return row["spent_nanos"], row["reserved_nanos"]


async def test_a_machine_whose_clock_is_behind_takes_of_the_day_that_has_begun(
    world, buyer, key_id
):
    reserve(world, key_id, 40)
    world.pass_time(DAY_S)
    reserve(world, key_id, 10)
    late = reserve(world, key_id, 20, now_s=world.clock.now - DAY_S)
    assert await listed(world, buyer) == (0, 30)
    with world.market.database.transaction() as session:
        budgets.settle(session, late, 15)
    assert await listed(world, buyer) == (15, 10)


async def test_what_the_ledger_has_settled_refuses_nobody(world, buyer, key_id):
    hold_id = reserve(world, key_id, LIMIT_NANOS)
    now_s = world.clock.now
    with world.market.database.transaction() as session:
        Book(session).hold(
            hold_id, buyer.account_id, LIMIT_NANOS, now_s=now_s, expires_at_s=now_s + 60
        )
    with pytest.raises(KeyBudgetSpent):
        reserve(world, key_id, 1)
    with world.market.database.transaction() as session:
        mark_closed(session, hold_id)
        settle_ready(session, now_s=now_s, limit=9)
    reserve(world, key_id, LIMIT_NANOS)
    assert await listed(world, buyer) == (0, LIMIT_NANOS)
