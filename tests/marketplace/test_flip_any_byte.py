"""Any value of any table, changed by the least that can be wrong with it: `check` names its row.

Every table there is, so that a new one is tried as soon as a model says so. What no check can name
stands in EXEMPT with its reason; nothing that bears money or decides about it may stand there.
"""

from collections.abc import Iterator, Mapping
from itertools import zip_longest

import pytest
from sqlalchemy import BigInteger, Boolean, LargeBinary, Table, select, text
from sqlalchemy.exc import IntegrityError

from ledger import digested
from ledger.database import Session, metadata, open_database
from ledger.tiles import TileName
from ledger.triggers import drop_statements
from marketplace.books import check_books
from tests.marketplace.filled import fill
from tests.marketplace.payments.conftest import shop, stripe  # noqa: F401 - fixtures
from tests.postgres import both_engines

COUNTED = "counted by the database, and nothing refers to it"
SHORT_LIVED = "forgotten within the hour; a change delays or repeats what changes nothing"

EXEMPT: Mapping[str, str] = {
    "market_attempt": "how often a password was tried lately; forgotten within the day",
    "market_nonce": SHORT_LIVED,
    "market_placement": SHORT_LIVED,
    "market_offer.changed_at_s": "when other processes look at the offer again",
    "market_api_key.last_used_at_s": "shown to the key's owner; written for many keys at once",
    **{
        f"market_{name}.id": COUNTED
        for name in (
            "binding",
            "finding",
            "freeze",
            "mail",
            "outbox",
            "payout_alarm",
            "reconciliation",
        )
    },
}
"""`table` or `table.column`: why a change there is not named."""

BOOK = {
    f"ledger_{name}" for name in ("account", "transfer", "hold", "hold_closing", "lane", "receipt")
}

NAMES = {
    "ledger_account": lambda row: row["name"],
    "ledger_transfer": lambda row: f"transfer {row['id'].hex()}",
    "ledger_hold": lambda row: f"hold {row['hold_id'].hex()}",
    "ledger_hold_closing": lambda row: f"hold {row['hold_id'].hex()}",
    "ledger_lane": lambda row: f"lease {row['lease_id'].hex()}",
    "ledger_receipt": lambda row: f"receipt {row['sequence']} of lease {row['lease_id'].hex()}",
    "ledger_leaf": lambda row: f"entry {row['leaf_index']} ",
    "ledger_node": lambda row: f"node {row['node_index']} of level {row['level']}",
    "ledger_tile": lambda row: TileName(row["level"], row["tile_index"]).path,
    "ledger_log_head": lambda row: "the log's head",
    "ledger_balance_node": lambda row: (
        f"balance tree {row['snapshot_id']}: node {row['node_index']} of level {row['level']}"
    ),
}
"""How a violation names a row, for tables whose rows have no digest; else it is table and key."""


def columns_of(table: Table) -> list[str]:
    """Those that are not exempt."""
    if table.name in EXEMPT:
        return []
    return [column.name for column in table.c if f"{table.name}.{column.name}" not in EXEMPT]


def changed(table: Table, name: str, value):
    """One off, one bit, one letter; or something where nothing was."""
    kind = table.c[name].type
    if isinstance(kind, Boolean):
        return not value
    if isinstance(kind, BigInteger):
        return 1 if value is None else value + 1
    if isinstance(kind, LargeBinary):
        return value[:-1] + bytes([value[-1] ^ 1]) if value else bytes(16)
    return value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"


def fullest_row(session: Session, table: Table) -> Mapping[str, object]:
    """The row with the least that is NULL."""
    rows = [dict(row) for row in session.execute(select(table)).mappings()]
    assert rows, f"{table.name} is empty: fill() must reach it"
    return max(rows, key=lambda row: sum(value is not None for value in row.values()))


def name_of(table: Table, row) -> str:
    if table.name in NAMES:
        return NAMES[table.name](row)
    key = [row[column.name] for column in table.primary_key]
    parts = (part.hex() if isinstance(part, bytes) else str(part) for part in key)
    return f"{table.name} {':'.join(parts)}"


def change(session: Session, table: Table, row, name: str) -> dict[str, object] | None:
    """The row as it is afterwards; None where the database itself refuses."""
    after = {**row, name: changed(table, name, row[name])}
    where = " AND ".join(f"{column.name} = :key_{column.name}" for column in table.primary_key)
    keys = {f"key_{column.name}": row[column.name] for column in table.primary_key}
    statement = text(f"UPDATE {table.name} SET {name} = :value WHERE {where}")
    try:
        with session.begin_nested():
            done = session.execute(statement, {"value": after[name], **keys})
    except IntegrityError:
        return None
    assert done.rowcount == 1, f"{table.name}.{name}"
    return after


def by_digest(table: Table) -> list[str]:
    """Columns that the row's own digest tells of, and the digest."""
    if table not in digested.digested():
        return []
    told = (*digested.covered(table), "row_digest")
    return [name for name in columns_of(table) if name in told]


def rounds() -> Iterator[list[tuple[Table, str]]]:
    """What is changed at once: one column of each table whose rows have digests, for those tell of
    their own row alone; of what other rows tell of, one of the book, the log and the market each.
    """
    tables = [table for _, table in sorted(metadata.tables.items())]
    digested_columns = [[(table, name) for name in by_digest(table)] for table in tables]
    for together in zip_longest(*digested_columns):
        yield [each for each in together if each]
    rest = [
        [(table, name) for table in tables if group(table) == place for name in columns_of(table)]
        for place in ("book", "log", "market")
    ]
    told = [each for columns in digested_columns for each in columns]
    rest = [[each for each in columns if each not in told] for columns in rest]
    for together in zip_longest(*rest):
        yield [each for each in together if each]


def group(table: Table) -> str:
    """Whose check tells of it."""
    if table.name.startswith("market_"):
        return "market"
    return "book" if table.name in BOOK else "log"


@pytest.fixture
async def broken(shop):  # noqa: F811
    """A session that nothing holds back, over a database in which everything has happened."""
    await fill(shop)
    engine = open_database(shop.world.config.url)
    on_sqlite = engine.dialect.name == "sqlite"
    with Session(engine) as session:
        if on_sqlite:
            driver = session.connection().connection.dbapi_connection
            session.rollback()
            for pragma in ("foreign_keys=OFF", "ignore_check_constraints=ON"):
                driver.execute(f"PRAGMA {pragma}")
            for table in metadata.tables:
                for statement in drop_statements(table, "sqlite"):
                    session.execute(text(statement))
        else:
            session.execute(text("SET session_replication_role = replica"))
        yield session
        session.rollback()
    engine.dispose()


@both_engines
async def test_every_changed_value_is_named_with_its_table_and_row(broken, shop, engine_name):  # noqa: F811
    market = shop.world.market
    assert check_books(broken, market) == []
    every = list(rounds())
    # the digests are the same on both engines; of the rest PostgreSQL gets a part
    chosen = every if engine_name == "sqlite" else every[::7]
    unnamed = []
    for together in chosen:
        with broken.begin_nested() as point:
            done = []
            for table, name in together:
                row = fullest_row(broken, table)
                if (after := change(broken, table, row, name)) is not None:
                    done.append((table, name, row, after))
            said = [found.detail for found in check_books(broken, market)]
            point.rollback()
        unnamed += [
            (f"{table.name}.{name}", said[:3])
            for table, name, row, after in done
            if not any(name_of(table, each) in one for one in said for each in (row, after))
        ]
    assert not unnamed, "\n".join(map(str, unnamed))
    assert check_books(broken, market) == []
