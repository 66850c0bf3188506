"""Transfers are named by their code and ref, and say so in a digest; receipts by window.

What every settlement touches, clearing and fee, is split by hold into 64 accounts each; a hold may
have several parts, and its closing is a row of its own. Keys and digests are computed here, so a
database that holds data cannot be brought over by SQL alone.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from ledger.partitions import default_statements
from ledger.triggers import create_statements
from migrations.ledger_rows import bring_receipts, bring_transfers, join_accounts, number_transfers

revision: str = "0004_ledger"
down_revision: str | None = "0003_replacements"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

MOVED = ("transfer", "receipt")
REMADE = ("ledger_transfer", "ledger_receipt")


def upgrade() -> None:
    _refuse_data_as_text()
    # on SQLite nobody asks what refers to a table while it is made anew (`migrations/run.py`)
    with op.batch_alter_table("ledger_hold") as batch:
        batch.drop_constraint(op.f("fk_ledger_hold_transfer_id_ledger_transfer"), "foreignkey")
        batch.drop_constraint(op.f("uq_ledger_hold_transfer_id"), "unique")
        batch.drop_column("transfer_id")
        batch.add_column(sa.Column("parts", sa.BigInteger(), nullable=False, server_default="1"))
        batch.create_check_constraint(op.f("ck_ledger_hold_parts"), "parts BETWEEN 1 AND 1024")
    with op.batch_alter_table("ledger_hold") as batch:
        batch.alter_column("parts", server_default=None)
    _set_aside()
    _create_closing()
    op.execute(
        "INSERT INTO ledger_hold_closing (hold_id) SELECT hold_id FROM ledger_hold WHERE closed"
    )
    _create_transfer()
    _create_receipt()
    if not op.get_context().as_sql:
        bring_transfers()
        bring_receipts()
    _forget()
    _guard(*REMADE, "ledger_hold_closing")


def downgrade() -> None:
    """Transfers are numbered in the order of their time; what was split is one account again."""
    _set_aside()
    op.drop_table("ledger_hold_closing")
    join_accounts()
    _create_numbered_transfer()
    number_transfers()
    _create_receipt_without_window()
    op.execute(
        "INSERT INTO ledger_receipt (lease_id, sequence, cosigned, amount_nanos, leaf_index,"
        " received_at_s) SELECT lease_id, sequence, cosigned, amount_nanos, leaf_index,"
        " received_at_s FROM moved_receipt"
    )
    _name_holds_transfers()
    _forget()
    _guard(*REMADE)


def _refuse_data_as_text() -> None:
    """A script made with --sql must not drop what it cannot compute again."""
    if op.get_context().as_sql and op.get_context().dialect.name == "postgresql":
        op.execute(
            "DO $$ BEGIN IF EXISTS (SELECT 1 FROM ledger_transfer) THEN RAISE EXCEPTION"
            " 'there is data: let piecework-market bring it over'; END IF; END $$"
        )


def _set_aside() -> None:
    for name in MOVED:
        op.execute(f"CREATE TEMPORARY TABLE moved_{name} AS SELECT * FROM ledger_{name}")
        op.drop_table(f"ledger_{name}")
    op.create_index("ix_moved_transfer", "moved_transfer", ["id"])
    op.create_index("ix_moved_transfer_pending", "moved_transfer", ["pending_id"])


def _forget() -> None:
    for name in MOVED:
        op.execute(f"DROP TABLE moved_{name}")


def _guard(*tables: str) -> None:
    for table in tables:
        for statement in create_statements(table, op.get_context().dialect.name):
            op.execute(statement)


def _name_holds_transfers() -> None:
    """A hold points to its first part's transfer again; further parts it does not know."""
    as_text = (
        "lower(hex(hold_id))"
        if op.get_context().dialect.name == "sqlite"
        else "encode(hold_id, 'hex')"
    )
    with op.batch_alter_table("ledger_hold") as batch:
        batch.drop_constraint(op.f("ck_ledger_hold_parts"), "check")
        batch.drop_column("parts")
        batch.add_column(sa.Column("transfer_id", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE ledger_hold SET transfer_id = (SELECT t.id FROM ledger_transfer t"
        f" WHERE t.code = 'hold' AND t.ref = {as_text})"
    )
    with op.batch_alter_table("ledger_hold") as batch:
        batch.alter_column("transfer_id", nullable=False)
        batch.create_foreign_key(
            op.f("fk_ledger_hold_transfer_id_ledger_transfer"),
            "ledger_transfer",
            ["transfer_id"],
            ["id"],
        )
        batch.create_unique_constraint(op.f("uq_ledger_hold_transfer_id"), ["transfer_id"])


def _create_closing() -> None:
    op.create_table(
        "ledger_hold_closing",
        sa.Column("hold_id", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["hold_id"],
            ["ledger_hold.hold_id"],
            name=op.f("fk_ledger_hold_closing_hold_id_ledger_hold"),
        ),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_ledger_hold_closing")),
    )


def _create_transfer() -> None:
    _create_transfer_of(
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("pending_id", sa.LargeBinary(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
    )


def _create_numbered_transfer() -> None:
    _create_transfer_of(
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pending_id", sa.BigInteger(), nullable=True),
        sa.UniqueConstraint("code", "ref", name=op.f("uq_ledger_transfer_code_ref")),
    )


def _create_transfer_of(*parts: Any) -> None:
    """What is the same in both versions, and these."""
    table = "ledger_transfer"
    account = ["ledger_account.name"]
    op.create_table(
        table,
        *parts,
        sa.Column("debit", sa.String(160), nullable=False),
        sa.Column("credit", sa.String(160), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("ref", sa.String(160), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(state IN ('post', 'void')) = (pending_id IS NOT NULL)",
            name=op.f("ck_ledger_transfer_resolution"),
        ),
        sa.CheckConstraint(
            "state IN ('posted', 'pending', 'post', 'void')", name=op.f("ck_ledger_transfer_state")
        ),
        sa.CheckConstraint(
            "amount_nanos > 0 AND amount_nanos <= 1152921504606846976",
            name=op.f("ck_ledger_transfer_amount"),
        ),
        sa.CheckConstraint("debit <> credit", name=op.f("ck_ledger_transfer_two_accounts")),
        sa.ForeignKeyConstraint(
            ["credit"], account, name=op.f("fk_ledger_transfer_credit_ledger_account")
        ),
        sa.ForeignKeyConstraint(
            ["debit"], account, name=op.f("fk_ledger_transfer_debit_ledger_account")
        ),
        sa.ForeignKeyConstraint(
            ["pending_id"],
            ["ledger_transfer.id"],
            name=op.f("fk_ledger_transfer_pending_id_ledger_transfer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_transfer")),
    )
    for side in ("credit", "debit"):
        op.create_index(op.f(f"ix_{table}_{side}"), table, [side], unique=False)
    op.create_index(
        "uq_ledger_transfer_resolve_once",
        table,
        ["pending_id"],
        unique=True,
        sqlite_where=sa.text("pending_id IS NOT NULL"),
        postgresql_where=sa.text("pending_id IS NOT NULL"),
    )


def _create_receipt() -> None:
    _create_receipt_of(
        sa.Column("window_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "lease_id", "sequence", "window_index", name=op.f("pk_ledger_receipt")
        ),
        sa.UniqueConstraint(
            "leaf_index", "window_index", name=op.f("uq_ledger_receipt_leaf_index_window_index")
        ),
        postgresql_partition_by="RANGE (window_index)",
    )
    if op.get_context().dialect.name == "postgresql":
        for statement in default_statements():
            op.execute(statement)


def _create_receipt_without_window() -> None:
    _create_receipt_of(
        sa.PrimaryKeyConstraint("lease_id", "sequence", name=op.f("pk_ledger_receipt")),
        sa.UniqueConstraint("leaf_index", name=op.f("uq_ledger_receipt_leaf_index")),
        sa.ForeignKeyConstraint(
            ["leaf_index"],
            ["ledger_leaf.leaf_index"],
            name=op.f("fk_ledger_receipt_leaf_index_ledger_leaf"),
        ),
        sa.ForeignKeyConstraint(
            ["lease_id"],
            ["ledger_lane.lease_id"],
            name=op.f("fk_ledger_receipt_lease_id_ledger_lane"),
        ),
    )


def _create_receipt_of(*parts: Any, **options: Any) -> None:
    """What is the same in both versions, and these."""
    op.create_table(
        "ledger_receipt",
        sa.Column("lease_id", sa.LargeBinary(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cosigned", sa.LargeBinary(), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("leaf_index", sa.BigInteger(), nullable=False),
        sa.Column("received_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_nanos >= 0", name=op.f("ck_ledger_receipt_amount")),
        sa.CheckConstraint("sequence > 0", name=op.f("ck_ledger_receipt_sequence")),
        *parts,
        **options,
    )
