"""The log's check: whole logs pass, and any flipped byte of any of its rows is named."""

import random

import pytest
from sqlalchemy import text

from ledger.balance_snapshots import take_snapshot
from ledger.checkpoint import split_note
from ledger.cosignature import cosign
from ledger.cosignatures import store_cosignature
from ledger.database import metadata
from ledger.leaf import BalancesLeaf
from ledger.log import Log, publish_checkpoint
from ledger.log_check import check_log
from ledger.log_hashes import LogHashes
from ledger.settle_window import mark_closed, settle_ready
from ledger.tiles import subtree_from_tiles
from ledger.tree import tree_root
from tests.ledger.world import (
    MARKET,
    NOW_S,
    ORIGIN,
    OTHER,
    PROVIDER,
    accept,
    id_of,
    lease_of,
    leased_hold,
    receipt_of,
    without_triggers,
)
from tests.postgres import both_engines

FIRST = lease_of("first", "hold")
SECOND = lease_of("second", "hold", provider=OTHER)


def fill(session):
    """Receipts, a settlement, two checkpoints, a balance tree, a cosignature, and full tiles."""
    leased_hold(session, "hold", [FIRST, SECOND])
    accept(session, receipt_of(FIRST, 1, 10))
    publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
    accept(session, receipt_of(FIRST, 2, 20, final=True))
    accept(session, receipt_of(SECOND, 1, 21, provider=OTHER, final=True), provider=OTHER)
    mark_closed(session, id_of("hold"))
    settle_ready(session, now_s=NOW_S, limit=10)
    Log(session).append([BalancesLeaf(bytes(32), 0, 0, NOW_S)] * 260)
    assert take_snapshot(session, now_s=NOW_S, every_s=60)
    signed = publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
    line = cosign(split_note(signed.note)[0], PROVIDER, NOW_S)
    assert store_cosignature(session, signed.size, line, witness=PROVIDER.peer_id, now_s=NOW_S)


@pytest.fixture
def full(session):
    fill(session)
    return session


def found(session):
    return check_log(session, MARKET.peer_id, ORIGIN)


def flipped(value, rng):
    """The same with one bit of one byte changed."""
    if isinstance(value, int):
        return value + 1
    data = bytearray(value.encode() if isinstance(value, str) else value)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(7 if isinstance(value, str) else 8)
    return (
        data.decode(errors="replace").replace("\0", "0") if isinstance(value, str) else bytes(data)
    )


COLUMNS = [
    ("ledger_leaf", "payload"),
    ("ledger_leaf", "hash"),
    ("ledger_leaf", "kind"),
    ("ledger_node", "hash"),
    ("ledger_tile", "hashes"),
    ("ledger_log_head", "frontier"),
    ("ledger_checkpoint", "root"),
    ("ledger_checkpoint", "note"),
    ("ledger_checkpoint", "charged_nanos"),
    ("ledger_checkpoint", "credited_nanos"),
    ("ledger_checkpoint", "fee_nanos"),
    ("ledger_cosignature", "line"),
    ("ledger_cosignature", "witness"),
    ("ledger_receipt", "cosigned"),
    ("ledger_balance_snapshot", "root"),
    ("ledger_balance_snapshot", "secret"),
    ("ledger_balance_snapshot", "taken_at_s"),
    ("ledger_balance_snapshot", "account_count"),
    ("ledger_balance_node", "hash"),
    ("ledger_balance_node", "sum_nanos"),
    ("ledger_balance_node", "account"),
]


@both_engines
class TestWhole:
    def test_nothing_is_wrong(self, full):
        assert found(full) == []

    def test_an_empty_log(self, session):
        publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
        assert found(session) == []

    def test_tiles_alone_come_to_the_root(self, full):
        log = Log(full)
        subtree = subtree_from_tiles(log.size, LogHashes(full).tile)
        assert tree_root(log.size, subtree) == log.latest().root


class TestFlippedByte:
    @pytest.mark.parametrize(("table", "column"), COLUMNS)
    def test_is_named(self, full, table, column):
        rng = random.Random(f"{table} {column}")
        without_triggers(full, table)
        keys = [key.name for key in metadata.tables[table].primary_key]
        where = " AND ".join(f"{key} = :k_{key}" for key in keys)
        query = text(f"SELECT * FROM {table} WHERE {column} IS NOT NULL")
        rows = full.execute(query).mappings().all()
        if table.startswith("ledger_balance"):
            newest = max(row["snapshot_id"] for row in rows)
            rows = [row for row in rows if row["snapshot_id"] == newest]
        for row in rng.sample(rows, 1):
            values = {f"k_{key}": row[key] for key in keys}
            changed = flipped(row[column], rng)
            update = text(f"UPDATE {table} SET {column} = :value WHERE {where}")
            with full.begin_nested() as savepoint:
                full.execute(update, {**values, "value": changed})
                assert found(full), (row[column], changed)
                savepoint.rollback()


class TestLostRows:
    @pytest.mark.parametrize(
        "table", ["ledger_node", "ledger_tile", "ledger_balance_node", "ledger_checkpoint"]
    )
    def test_are_named(self, full, table):
        for name in dict.fromkeys(("ledger_cosignature", table)):
            without_triggers(full, name)
            full.execute(text(f"DELETE FROM {name}"))
        assert found(full)
