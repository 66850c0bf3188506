"""Rows that were there before digests get theirs; there and back, on both engines."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from ledger.database import Session
from ledger.log import publish_checkpoint
from marketplace.accounts.models import BuyerRow
from marketplace.keys.models import BudgetRow, KeyHoldRow, KeyRow
from marketplace.standing.models import FingerprintRow, FreezeRow
from marketplace.users.models import UserRow
from migrations.run import downgrade, upgrade
from tests.ledger.world import MARKET, NOW_S, ORIGIN, broken_digests
from tests.postgres import both_engines

BEFORE = "0011_operations"


@pytest.fixture
def market(newest):
    """A database of the newest version with rows of every kind of column and key."""
    with Session(newest) as session, session.begin():
        session.add_all(
            BuyerRow(account_id=f"{number:04}", name="x", created_at_s=number)
            for number in range(1_203)
        )
        session.add(BudgetRow(budget_id="b", reset="day", spent_nanos=4))
        session.flush()
        session.add_all(
            [
                KeyRow(
                    key_id="k", account_id="0000", name="n", scopes="inference",
                    secret_hash=bytes(32), created_at_s=1, budget_id="b",
                ),
                KeyHoldRow(
                    hold_id=b"h" * 16, key_id="k", period_start_s=0, amount_nanos=5, is_open=True,
                    created_at_s=2,
                ),
                UserRow(
                    user_id="u", email="a@b.example", password_hash="", is_operator=True,
                    created_at_s=1, password_changed_at_s=1,
                ),
                FreezeRow(account_id="0001", reason="why", frozen_at_s=3),
                FingerprintRow(
                    account_id="0001", kind="ip", digest=bytes(32), first_seen_at_s=1,
                    last_seen_at_s=2,
                ),
            ]
        )  # fmt: skip
        publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
    return newest


@both_engines
def test_down_and_up_again_every_row_has_its_digest(market):
    with Session(market) as session:
        assert broken_digests(session) == []
    downgrade(market, BEFORE)
    with market.begin() as connection:
        connection.execute(text("UPDATE market_account SET name = 'y' WHERE account_id < '0100'"))
    upgrade(market)
    with Session(market) as session:
        assert broken_digests(session) == []


@both_engines
def test_what_is_append_only_stays_so(market):
    downgrade(market, BEFORE)
    upgrade(market)
    with pytest.raises(DatabaseError), market.begin() as connection:
        connection.execute(text("UPDATE ledger_checkpoint SET created_at_s = 1"))
