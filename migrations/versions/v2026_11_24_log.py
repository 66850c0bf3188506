"""The log as full tiles, what witnesses have signed, and balance trees."""

import itertools
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from ledger.triggers import create_statements

revision: str = "0005_log"
down_revision: str | None = "0004_ledger"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = (
    "ledger_tile",
    "ledger_cosignature",
    "ledger_balance_snapshot",
    "ledger_balance_node",
)
_NODES = ("ledger_node", "node_index")
LEVELS = 8
"""Of tiles: 256 to the eighth is beyond every index."""


def upgrade() -> None:
    _create_tile()
    _create_cosignature()
    _create_balance_snapshot()
    _create_balance_node()
    _fill_tiles()
    for table in TABLES:
        for statement in create_statements(table, op.get_context().dialect.name):
            op.execute(statement)


def downgrade() -> None:
    op.drop_index("ix_ledger_balance_node_account", table_name="ledger_balance_node")
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_tile() -> None:
    op.create_table(
        "ledger_tile",
        sa.Column("level", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tile_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(8192), nullable=False),
        sa.CheckConstraint(
            "level BETWEEN 0 AND 7 AND tile_index >= 0", name=op.f("ck_ledger_tile_place")
        ),
        sa.CheckConstraint("length(hashes) = 8192", name=op.f("ck_ledger_tile_full")),
        sa.PrimaryKeyConstraint("level", "tile_index", name=op.f("pk_ledger_tile")),
    )


def _create_cosignature() -> None:
    op.create_table(
        "ledger_cosignature",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("witness", sa.String(64), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("received_at_s", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["size"],
            ["ledger_checkpoint.size"],
            name=op.f("fk_ledger_cosignature_size_ledger_checkpoint"),
        ),
        sa.PrimaryKeyConstraint("size", "witness", name=op.f("pk_ledger_cosignature")),
    )


def _create_balance_snapshot() -> None:
    op.create_table(
        "ledger_balance_snapshot",
        sa.Column("snapshot_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(32), nullable=False),
        sa.Column("sum_nanos", sa.BigInteger(), nullable=False),
        sa.Column("liabilities_nanos", sa.BigInteger(), nullable=False),
        sa.Column("account_count", sa.BigInteger(), nullable=False),
        sa.Column("taken_at_s", sa.BigInteger(), nullable=False),
        sa.Column("secret", sa.LargeBinary(32), nullable=False),
        sa.Column("leaf_index", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "sum_nanos >= 0 AND sum_nanos = liabilities_nanos",
            name=op.f("ck_ledger_balance_snapshot_sum"),
        ),
        sa.CheckConstraint(
            "account_count >= 0", name=op.f("ck_ledger_balance_snapshot_account_count")
        ),
        sa.ForeignKeyConstraint(
            ["leaf_index"],
            ["ledger_leaf.leaf_index"],
            name=op.f("fk_ledger_balance_snapshot_leaf_index_ledger_leaf"),
        ),
        sa.UniqueConstraint("leaf_index", name=op.f("uq_ledger_balance_snapshot_leaf_index")),
        sa.PrimaryKeyConstraint("snapshot_id", name=op.f("pk_ledger_balance_snapshot")),
    )


def _create_balance_node() -> None:
    op.create_table(
        "ledger_balance_node",
        sa.Column("snapshot_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("level", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("node_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("sum_nanos", sa.BigInteger(), nullable=False),
        sa.Column("account", sa.String(160), nullable=True),
        sa.CheckConstraint("sum_nanos >= 0", name=op.f("ck_ledger_balance_node_sum")),
        sa.CheckConstraint(
            "(level = 0) = (account IS NOT NULL)", name=op.f("ck_ledger_balance_node_account")
        ),
        sa.PrimaryKeyConstraint(
            "snapshot_id", "level", "node_index", name=op.f("pk_ledger_balance_node")
        ),
    )
    op.create_index(
        "ix_ledger_balance_node_account",
        "ledger_balance_node",
        ["snapshot_id", "account"],
        unique=True,
        sqlite_where=sa.text("account IS NOT NULL"),
        postgresql_where=sa.text("account IS NOT NULL"),
    )


def _fill_tiles() -> None:
    """Full tiles of a log that is there already, from its leaves' and nodes' hashes."""
    for level in range(LEVELS):
        table, column = ("ledger_leaf", "leaf_index") if level == 0 else _NODES
        where = f"level = {8 * level}" if level else "true"
        if op.get_context().dialect.name == "postgresql":
            op.execute(
                "INSERT INTO ledger_tile (level, tile_index, hashes) "
                f"SELECT {level}, {column} / 256, string_agg(hash, ''::bytea ORDER BY {column}) "
                f"FROM {table} WHERE {where} GROUP BY {column} / 256 HAVING COUNT(*) = 256"
            )
        elif not op.get_context().as_sql:  # SQLite joins no blobs; a text has no rows to join
            _fill_level(op.get_bind(), level, f"FROM {table} WHERE {where}", column)


def _fill_level(connection: sa.Connection, level: int, rows: str, column: str) -> None:
    """One level; a tile is read and written at a time."""
    query = sa.text(
        f"SELECT hash {rows} AND {column} BETWEEN :start AND :start + 255 ORDER BY {column}"
    )
    insert = sa.text("INSERT INTO ledger_tile VALUES (:level, :tile_index, :hashes)")
    for tile_index in itertools.count():
        hashes = connection.execute(query, {"start": 256 * tile_index}).scalars().all()
        if len(hashes) < 256:
            return
        values = {"level": level, "tile_index": tile_index, "hashes": b"".join(hashes)}
        connection.execute(insert, values)
