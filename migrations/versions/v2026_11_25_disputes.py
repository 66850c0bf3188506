"""Parked money, equivocations and rulings."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from ledger.triggers import create_statements

revision: str = "0006_disputes"
down_revision: str | None = "0005_log"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = (
    "ledger_equivocation",
    "ledger_loose_end",
    "ledger_dispute",
    "ledger_dispute_lease",
    "ledger_mismatch",
    "market_dispute_statement",
)


def upgrade() -> None:
    # written out: SQLite can add a column with a check of its own, but no check to a table
    op.execute(
        "ALTER TABLE ledger_checkpoint ADD COLUMN parked_nanos BIGINT DEFAULT 0 NOT NULL"
        " CONSTRAINT ck_ledger_checkpoint_parked CHECK (parked_nanos >= 0)"
    )
    _create_equivocation()
    _create_loose_end()
    _create_dispute()
    _create_dispute_lease()
    _create_mismatch()
    _create_statement()
    for table in TABLES:
        for statement in create_statements(table, op.get_context().dialect.name):
            op.execute(statement)


def downgrade() -> None:
    """What is parked stays in its accounts; who contradicted whom stands in the log alone."""
    for table in reversed(TABLES):
        op.drop_table(table)
    op.execute("ALTER TABLE ledger_checkpoint DROP COLUMN parked_nanos")


def _create_equivocation() -> None:
    table = "ledger_equivocation"
    op.create_table(
        table,
        sa.Column("lease_id", sa.LargeBinary(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("first", sa.LargeBinary(), nullable=False),
        sa.Column("second", sa.LargeBinary(), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("leaf_index", sa.BigInteger(), nullable=False),
        sa.Column("found_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("sequence > 0", name=op.f(f"ck_{table}_sequence")),
        sa.CheckConstraint("amount_nanos >= 0", name=op.f(f"ck_{table}_amount")),
        _refers(table, "lease_id", "ledger_lane", "lease_id"),
        _refers(table, "leaf_index", "ledger_leaf", "leaf_index"),
        sa.PrimaryKeyConstraint("lease_id", name=op.f(f"pk_{table}")),
        sa.UniqueConstraint("leaf_index", name=op.f(f"uq_{table}_leaf_index")),
    )
    op.create_index(op.f(f"ix_{table}_found_at_s"), table, ["found_at_s"])


def _create_loose_end() -> None:
    table = "ledger_loose_end"
    op.create_table(
        table,
        sa.Column("lease_id", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.LargeBinary(), nullable=False),
        _refers(table, "lease_id", "ledger_lane", "lease_id"),
        sa.PrimaryKeyConstraint("lease_id", name=op.f(f"pk_{table}")),
    )
    op.create_index(op.f(f"ix_{table}_session_id"), table, ["session_id"])


def _create_dispute() -> None:
    table = "ledger_dispute"
    op.create_table(
        table,
        sa.Column("dispute_id", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("session_id", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("claim", sa.String(1000), nullable=False),
        sa.Column("filed_by", sa.String(128), nullable=False),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
        sa.Column("opened_at_s", sa.BigInteger(), nullable=False),
        sa.Column("ruled_at_s", sa.BigInteger(), nullable=True),
        sa.Column("ruled_by", sa.String(256), nullable=False),
        sa.Column("ruling", sa.String(1000), nullable=False),
        sa.CheckConstraint(
            "kind IN ('link_mismatch', 'bad_output')", name=op.f(f"ck_{table}_kind")
        ),
        sa.CheckConstraint("state IN ('open', 'ruled')", name=op.f(f"ck_{table}_state")),
        sa.CheckConstraint(
            "(state = 'ruled') = (ruled_at_s IS NOT NULL)", name=op.f(f"ck_{table}_ruled")
        ),
        sa.PrimaryKeyConstraint("dispute_id", name=op.f(f"pk_{table}")),
    )
    is_open = sa.text("state = 'open'")
    op.create_index(
        "ix_ledger_dispute_open",
        table,
        ["opened_at_s"],
        sqlite_where=is_open,
        postgresql_where=is_open,
    )


def _create_dispute_lease() -> None:
    table = "ledger_dispute_lease"
    op.create_table(
        table,
        sa.Column("dispute_id", sa.LargeBinary(), nullable=False),
        sa.Column("lease_id", sa.LargeBinary(), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("buyer", sa.String(128), nullable=False),
        sa.Column("parked_nanos", sa.BigInteger(), nullable=False),
        sa.Column("to_provider_nanos", sa.BigInteger(), nullable=True),
        sa.Column("to_buyer_nanos", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("parked_nanos >= 0", name=op.f(f"ck_{table}_parked")),
        sa.CheckConstraint(
            "(to_provider_nanos IS NULL) = (to_buyer_nanos IS NULL)"
            " AND to_provider_nanos >= 0 AND to_buyer_nanos >= 0"
            " AND to_provider_nanos + to_buyer_nanos = parked_nanos",
            name=op.f(f"ck_{table}_ruled"),
        ),
        _refers(table, "dispute_id", "ledger_dispute", "dispute_id"),
        _refers(table, "lease_id", "ledger_lane", "lease_id"),
        sa.PrimaryKeyConstraint("dispute_id", "lease_id", name=op.f(f"pk_{table}")),
    )
    for column in ("lease_id", "provider", "buyer"):
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])


def _create_mismatch() -> None:
    table = "ledger_mismatch"
    op.create_table(
        table,
        sa.Column("sender_lease", sa.LargeBinary(), nullable=False),
        sa.Column("receiver_lease", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("steps", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("dispute_id", sa.LargeBinary(), nullable=False),
        sa.Column("sender", sa.String(64), nullable=False),
        sa.Column("receiver", sa.String(64), nullable=False),
        sa.Column("hop_index", sa.BigInteger(), nullable=False),
        sa.Column("link_out_hash", sa.LargeBinary(), nullable=False),
        sa.Column("link_in_hash", sa.LargeBinary(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("epoch >= 0 AND steps > 0", name=op.f(f"ck_{table}_place")),
        _refers(table, "sender_lease", "ledger_lane", "lease_id"),
        _refers(table, "receiver_lease", "ledger_lane", "lease_id"),
        _refers(table, "dispute_id", "ledger_dispute", "dispute_id"),
        sa.PrimaryKeyConstraint(
            "sender_lease", "receiver_lease", "epoch", "steps", name=op.f(f"pk_{table}")
        ),
    )
    op.create_index(op.f(f"ix_{table}_dispute_id"), table, ["dispute_id"])


def _create_statement() -> None:
    table = "market_dispute_statement"
    op.create_table(
        table,
        sa.Column("statement_id", sa.LargeBinary(), nullable=False),
        sa.Column("dispute_id", sa.LargeBinary(), nullable=False),
        sa.Column("author", sa.String(128), nullable=False),
        sa.Column("body", sa.String(4000), nullable=False),
        sa.Column("made_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(body) > 0", name=op.f(f"ck_{table}_body")),
        _refers(table, "dispute_id", "ledger_dispute", "dispute_id"),
        sa.PrimaryKeyConstraint("statement_id", name=op.f(f"pk_{table}")),
    )
    op.create_index(op.f(f"ix_{table}_dispute_id_made_at_s"), table, ["dispute_id", "made_at_s"])
    op.create_index(op.f(f"ix_{table}_author_made_at_s"), table, ["author", "made_at_s"])


def _refers(table: str, column: str, other: str, other_column: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{other}")
    return sa.ForeignKeyConstraint([column], [f"{other}.{other_column}"], name=name)
