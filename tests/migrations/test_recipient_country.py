"""Recipients from before the country was asked, there and back, on both engines."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ledger.database import Session
from marketplace.accounts.models import BuyerRow
from marketplace.payouts.models import RecipientRow
from migrations.run import downgrade, upgrade
from tests.ledger.world import broken_digests
from tests.postgres import both_engines

BEFORE = "0012_row_digests"


@pytest.fixture
def market(newest):
    """A database of the newest version with one recipient."""
    with Session(newest) as session, session.begin():
        session.add(BuyerRow(account_id="a", name="x", created_at_s=1))
        session.flush()
        session.add(RecipientRow(account_id="a", recipient="acct_1", country="DE", created_at_s=2))
    return newest


@both_engines
def test_down_and_up_again_it_is_of_the_country_it_was_made_in(market):
    downgrade(market, BEFORE)
    with market.connect() as connection:
        names = connection.execute(text("SELECT * FROM market_recipient")).keys()
    assert "country" not in names
    upgrade(market)
    with Session(market) as session:
        assert broken_digests(session) == []
    with Session(market) as session:
        row = session.get(RecipientRow, "a")
        assert (row.recipient, row.country) == ("acct_1", "US")


@both_engines
def test_a_recipient_has_a_country(market):
    for wrong in ("NULL", "'X'"):
        with pytest.raises(IntegrityError), market.begin() as connection:
            connection.execute(text(f"UPDATE market_recipient SET country = {wrong}"))
