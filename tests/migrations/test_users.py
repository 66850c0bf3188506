"""A database with keys in it, from the version before people and back; on both engines."""

import pytest
from sqlalchemy import Engine, inspect

from ledger.database import open_database
from migrations.run import downgrade, upgrade
from tests import postgres
from tests.postgres import both_engines

BEFORE = "0006_disputes"
USERS = "0007_users"
SECRET = "decode('" + "ab" * 32 + "', 'hex')"
KEYS = """
INSERT INTO market_account (account_id, name, created_at_s) VALUES ('ann', 'Ann', 1);
INSERT INTO market_api_key
    (key_id, account_id, name, scopes, secret_hash, created_at_s, last_used_at_s, revoked_at_s)
    VALUES ('aaaaaaaa', 'ann', 'first', 'inference,management', SECRET, 1, 5, NULL),
    ('bbbbbbbb', 'ann', 'old', 'inference', SECRET, 2, NULL, 3)
"""
MORE = """
INSERT INTO market_budget (budget_id, limit_nanos, reset, period_start_s, reserved_nanos,
    spent_nanos, open_sessions) VALUES ('aaaaaaaa', 100, 'day', 0, 0, 0, 0);
UPDATE market_api_key SET budget_id = 'aaaaaaaa' WHERE key_id = 'aaaaaaaa';
INSERT INTO market_machine VALUES ('peer', 'ann', 'desk', 7)
"""


@pytest.fixture
def database(engine_name, tmp_path):
    """As the version before has it, with keys in it."""
    if engine_name == "sqlite":
        engine, url = open_database(f"sqlite:///{tmp_path / 'market.db'}"), ""
    else:
        url = postgres.fresh("empty", lambda _: None)
        engine = open_database(url)
    upgrade(engine, BEFORE)
    run(engine, KEYS)
    yield engine
    engine.dispose()
    if url:
        postgres.drop(url)


def run(engine: Engine, statements: str) -> None:
    secret = SECRET if engine.dialect.name == "postgresql" else "x'" + "ab" * 32 + "'"
    with engine.begin() as connection:
        for statement in statements.replace("SECRET", secret).split(";"):
            connection.exec_driver_sql(statement)


def keys(engine: Engine) -> list[tuple]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT key_id, account_id, name, scopes, created_at_s, last_used_at_s, revoked_at_s"
            " FROM market_api_key ORDER BY key_id"
        )
        return [tuple(row) for row in found]


@both_engines
def test_keys_stay_up_and_down_again(database):
    before, tables = keys(database), set(inspect(database).get_table_names())
    upgrade(database, USERS)
    assert keys(database) == before
    run(database, MORE)
    downgrade(database, BEFORE)
    assert keys(database) == before
    assert set(inspect(database).get_table_names()) == tables
    upgrade(database, USERS)
    assert keys(database) == before


@both_engines
@pytest.mark.parametrize(
    "nonsense",
    [
        "UPDATE market_api_key SET requests_per_minute_max = 0",
        "UPDATE market_api_key SET budget_id = 'nobodys'",
        "INSERT INTO market_budget (budget_id, reset, period_start_s, reserved_nanos,"
        " spent_nanos, open_sessions) VALUES ('x', 'hour', 0, 0, 0, 0)",
        "INSERT INTO market_budget (budget_id, reset, period_start_s, reserved_nanos,"
        " spent_nanos, open_sessions) VALUES ('x', 'day', 0, -1, 0, 0)",
        "INSERT INTO market_machine VALUES ('peer', 'nobody', 'desk', 7)",
    ],
)
def test_what_cannot_be_is_refused_by_the_database(database, nonsense):
    upgrade(database, USERS)
    with pytest.raises(Exception, match=r"(?i)constraint"):
        run(database, nonsense)
