"""The version that brings payments, with top-ups in the database from before it."""

import pytest

from ledger.database import open_database
from migrations.run import downgrade, upgrade

BEFORE = "0007_users"


@pytest.fixture
def database(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path / 'market.db'}")
    upgrade(engine, BEFORE)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO market_account VALUES ('ann', 'Ann', 1)")
        connection.exec_driver_sql(
            "INSERT INTO market_topup (topup_id, account_id, amount_nanos, checkout_url,"
            " created_at_s, paid_at_s) VALUES (x'01', 'ann', 90, '/pay', 1, 2),"
            " (x'02', 'ann', 10, '/pay', 1, NULL)"
        )
    yield engine
    engine.dispose()


def topups(engine):
    with engine.connect() as connection:
        return connection.exec_driver_sql("SELECT * FROM market_topup ORDER BY 1").all()


def test_every_top_up_gets_its_payment_and_down_again_nothing_is_lost(database):
    before = topups(database)
    upgrade(database)
    with database.connect() as connection:
        payments = connection.exec_driver_sql(
            "SELECT topup_id, method, attempt, refunded_nanos FROM market_payment ORDER BY 1"
        ).all()
    assert [tuple(row) for row in payments] == [
        (b"\x01", "checkout", 1, 0),
        (b"\x02", "checkout", 1, 0),
    ]
    downgrade(database, BEFORE)
    assert topups(database) == before
    upgrade(database)
    # the newest version adds a digest to each
    assert [row[:-1] for row in topups(database)] == [tuple(row) for row in before]
