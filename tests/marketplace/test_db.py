"""What a transaction sees while others commit."""

import pytest
from sqlalchemy import text

from marketplace.accounts.models import BuyerRow
from tests.marketplace.racing import on_postgresql


@on_postgresql
@pytest.mark.parametrize(("one_moment", "seen"), [(False, [0, 1]), (True, [0, 0])])
async def test_what_compares_sums_sees_one_moment(world, one_moment, seen):
    count, database = text("SELECT count(*) FROM market_account"), world.market.database
    with database.transaction(one_moment=one_moment) as session:
        counts = [session.execute(count).scalar_one()]
        with database.transaction() as other:
            other.add(BuyerRow(account_id="a", name="x", created_at_s=1))
        counts.append(session.execute(count).scalar_one())
    assert counts == seen
