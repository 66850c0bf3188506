"""Approvals at the same moment: what two people decide is done once, or not at all."""

import secrets

import pytest

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.invariants import check
from marketplace.operations import approvals
from marketplace.operations.errors import ApprovalOver
from marketplace.operations.schemas import ApprovalRequest
from marketplace.users.models import UserRow
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals

pytestmark = on_postgresql

GIVEN = 5_000_000


@pytest.fixture
async def buyer(world):
    """Somebody to give to, and three who run the marketplace."""
    with world.market.database.transaction() as session:
        session.add_all(
            UserRow(
                user_id=name, email=f"{name}@example.com", password_hash="none", is_operator=True,
                created_at_s=1, password_changed_at_s=1,
            )
            for name in ("ann", "bob", "carol")
        )  # fmt: skip
    return await world.buyer()


def asked(world, action, subject, **parameters) -> bytes:
    approval_id = secrets.token_bytes(16)
    wish = ApprovalRequest(
        approval_id=approval_id.hex(), action=action, subject=subject, parameters=parameters,
        reason="the bank called",
    )  # fmt: skip
    with world.market.database.transaction() as session:
        approvals.ask(session, "ann", wish, now_s=world.clock.now)
    return approval_id


def approval(world, approval_id, by="bob"):
    return lambda session: approvals.approve(
        session, world.market, by, approval_id, now_s=world.clock.now
    )


def refusal(world, approval_id, by="carol"):
    return lambda session: approvals.refuse(session, by, approval_id, now_s=world.clock.now)


def given(world, buyer) -> int:
    with world.market.database.reading() as session:
        assert check(session) == []
        cash = AccountRef(AccountCode.BUYER_CASH, buyer.account_id)
        return Book(session).balance(cash).posted_nanos


async def test_two_who_approve_at_once_do_it_once(world, buyer):
    wish = asked(world, "goodwill", buyer.account_id, amount_nanos=GIVEN)
    database = world.market.database
    same, other = approval(world, wish), approval(world, wish, "carol")
    outcomes = overlapping(
        database, same, in_transaction(database, same), in_transaction(database, other)
    )
    assert refusals(outcomes) == [ApprovalOver]
    assert outcomes[0] == outcomes[1]
    assert given(world, buyer) == GIVEN


@pytest.mark.parametrize("approved_first", [True, False])
async def test_what_one_refuses_another_does_not_do_beside_it(world, buyer, approved_first):
    wish = asked(world, "goodwill", buyer.account_id, amount_nanos=GIVEN)
    database = world.market.database
    pair = [approval(world, wish), refusal(world, wish)]
    first, second = pair if approved_first else pair[::-1]
    outcomes = overlapping(database, first, in_transaction(database, second))
    assert refusals(outcomes) == [ApprovalOver]
    assert given(world, buyer) == (GIVEN if approved_first else 0)


async def test_a_wish_taken_back_is_not_done_beside_it(world, buyer):
    wish = asked(world, "goodwill", buyer.account_id, amount_nanos=GIVEN)
    database = world.market.database
    outcomes = overlapping(
        database, refusal(world, wish, "ann"), in_transaction(database, approval(world, wish))
    )
    assert refusals(outcomes) == [ApprovalOver]
    assert given(world, buyer) == 0
