"""The ledger: accounts, transfers, holds, lanes, receipts, and the public log."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from ledger.triggers import create_statements, drop_function_statements

revision: str = "0001_ledger"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = (
    "ledger_account",
    "ledger_checkpoint",
    "ledger_leaf",
    "ledger_log_head",
    "ledger_node",
    "ledger_transfer",
    "ledger_hold",
    "ledger_lane",
    "ledger_receipt",
)


def upgrade() -> None:
    _create_account()
    _create_checkpoint()
    _create_leaf()
    _create_log_head()
    _create_node()
    _create_transfer()
    _create_hold()
    _create_lane()
    _create_receipt()
    for table in TABLES:
        for statement in create_statements(table, op.get_context().dialect.name):
            op.execute(statement)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
    for statement in drop_function_statements(op.get_context().dialect.name):
        op.execute(statement)


def _create_account() -> None:
    op.create_table(
        "ledger_account",
        sa.Column("name", sa.String(160), nullable=False),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("no_overdraft", sa.Boolean(), nullable=False),
        sa.Column("debits_pending", sa.BigInteger(), nullable=False),
        sa.Column("debits_posted", sa.BigInteger(), nullable=False),
        sa.Column("credits_pending", sa.BigInteger(), nullable=False),
        sa.Column("credits_posted", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "NOT no_overdraft OR debits_pending + debits_posted <= credits_posted",
            name=op.f("ck_ledger_account_no_overdraft"),
        ),
        sa.CheckConstraint(
            "credits_pending BETWEEN 0 AND 4611686018427387904",
            name=op.f("ck_ledger_account_credits_pending"),
        ),
        sa.CheckConstraint(
            "credits_posted BETWEEN 0 AND 4611686018427387904",
            name=op.f("ck_ledger_account_credits_posted"),
        ),
        sa.CheckConstraint(
            "debits_pending BETWEEN 0 AND 4611686018427387904",
            name=op.f("ck_ledger_account_debits_pending"),
        ),
        sa.CheckConstraint(
            "debits_posted BETWEEN 0 AND 4611686018427387904",
            name=op.f("ck_ledger_account_debits_posted"),
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_ledger_account")),
    )
    op.create_index(op.f("ix_ledger_account_code"), "ledger_account", ["code"], unique=False)


def _create_checkpoint() -> None:
    op.create_table(
        "ledger_checkpoint",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("charged_nanos", sa.BigInteger(), nullable=False),
        sa.Column("credited_nanos", sa.BigInteger(), nullable=False),
        sa.Column("fee_nanos", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_ledger_checkpoint")),
    )


def _create_leaf() -> None:
    op.create_table(
        "ledger_leaf",
        sa.Column("leaf_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("leaf_index >= 0", name=op.f("ck_ledger_leaf_leaf_index")),
        sa.PrimaryKeyConstraint("leaf_index", name=op.f("pk_ledger_leaf")),
    )


def _create_log_head() -> None:
    op.create_table(
        "ledger_log_head",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.Column("checkpoint_size", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "checkpoint_size BETWEEN 0 AND size", name=op.f("ck_ledger_log_head_checkpoint_size")
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_ledger_log_head_only_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_log_head")),
    )


def _create_node() -> None:
    op.create_table(
        "ledger_node",
        sa.Column("level", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("node_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "node_index", name=op.f("pk_ledger_node")),
    )


def _create_transfer() -> None:
    op.create_table(
        "ledger_transfer",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("debit", sa.String(160), nullable=False),
        sa.Column("credit", sa.String(160), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("pending_id", sa.BigInteger(), nullable=True),
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
            ["credit"],
            ["ledger_account.name"],
            name=op.f("fk_ledger_transfer_credit_ledger_account"),
        ),
        sa.ForeignKeyConstraint(
            ["debit"], ["ledger_account.name"], name=op.f("fk_ledger_transfer_debit_ledger_account")
        ),
        sa.ForeignKeyConstraint(
            ["pending_id"],
            ["ledger_transfer.id"],
            name=op.f("fk_ledger_transfer_pending_id_ledger_transfer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_transfer")),
        sa.UniqueConstraint("code", "ref", name=op.f("uq_ledger_transfer_code_ref")),
    )
    op.create_index(op.f("ix_ledger_transfer_credit"), "ledger_transfer", ["credit"], unique=False)
    op.create_index(op.f("ix_ledger_transfer_debit"), "ledger_transfer", ["debit"], unique=False)
    op.create_index(
        "uq_ledger_transfer_resolve_once",
        "ledger_transfer",
        ["pending_id"],
        unique=True,
        sqlite_where=sa.text("pending_id IS NOT NULL"),
        postgresql_where=sa.text("pending_id IS NOT NULL"),
    )


def _create_hold() -> None:
    op.create_table(
        "ledger_hold",
        sa.Column("hold_id", sa.LargeBinary(), nullable=False),
        sa.Column("transfer_id", sa.BigInteger(), nullable=False),
        sa.Column("buyer", sa.String(128), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("leased_nanos", sa.BigInteger(), nullable=False),
        sa.Column("fee_basis_points", sa.BigInteger(), nullable=True),
        sa.Column("settle_by_s", sa.BigInteger(), nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.Column("charged_nanos", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("amount_nanos > 0", name=op.f("ck_ledger_hold_amount")),
        sa.CheckConstraint(
            "charged_nanos BETWEEN 0 AND amount_nanos", name=op.f("ck_ledger_hold_charged")
        ),
        sa.CheckConstraint("fee_basis_points BETWEEN 0 AND 10000", name=op.f("ck_ledger_hold_fee")),
        sa.CheckConstraint(
            "leased_nanos BETWEEN 0 AND amount_nanos", name=op.f("ck_ledger_hold_leased")
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id"],
            ["ledger_transfer.id"],
            name=op.f("fk_ledger_hold_transfer_id_ledger_transfer"),
        ),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_ledger_hold")),
        sa.UniqueConstraint("transfer_id", name=op.f("uq_ledger_hold_transfer_id")),
    )
    op.create_index(
        "ix_ledger_hold_open",
        "ledger_hold",
        ["settle_by_s"],
        unique=False,
        sqlite_where=sa.text("charged_nanos IS NULL"),
        postgresql_where=sa.text("charged_nanos IS NULL"),
    )


def _create_lane() -> None:
    op.create_table(
        "ledger_lane",
        sa.Column("lease_id", sa.LargeBinary(), nullable=False),
        sa.Column("hold_id", sa.LargeBinary(), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("lease", sa.LargeBinary(), nullable=False),
        sa.Column("amount_nanos_max", sa.BigInteger(), nullable=False),
        sa.Column("settle_by_s", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("prefill_token_layers", sa.BigInteger(), nullable=False),
        sa.Column("decode_token_layers", sa.BigInteger(), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.Column("link_in_hash", sa.LargeBinary(), nullable=False),
        sa.Column("link_out_hash", sa.LargeBinary(), nullable=False),
        sa.Column("amount_received_nanos", sa.BigInteger(), nullable=False),
        sa.Column("amount_settled_nanos", sa.BigInteger(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "amount_received_nanos BETWEEN 0 AND amount_nanos_max",
            name=op.f("ck_ledger_lane_received"),
        ),
        sa.CheckConstraint(
            "amount_settled_nanos BETWEEN 0 AND amount_received_nanos",
            name=op.f("ck_ledger_lane_settled"),
        ),
        sa.CheckConstraint(
            "last_sequence >= 0 AND steps >= 0 AND tokens >= 0",
            name=op.f("ck_ledger_lane_counters"),
        ),
        sa.CheckConstraint(
            "prefill_token_layers >= 0 AND decode_token_layers >= 0"
            " AND bytes_in >= 0 AND bytes_out >= 0",
            name=op.f("ck_ledger_lane_work"),
        ),
        sa.ForeignKeyConstraint(
            ["hold_id"], ["ledger_hold.hold_id"], name=op.f("fk_ledger_lane_hold_id_ledger_hold")
        ),
        sa.PrimaryKeyConstraint("lease_id", name=op.f("pk_ledger_lane")),
    )
    op.create_index(op.f("ix_ledger_lane_hold_id"), "ledger_lane", ["hold_id"], unique=False)
    op.create_index(op.f("ix_ledger_lane_provider"), "ledger_lane", ["provider"], unique=False)


def _create_receipt() -> None:
    op.create_table(
        "ledger_receipt",
        sa.Column("lease_id", sa.LargeBinary(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("cosigned", sa.LargeBinary(), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("leaf_index", sa.BigInteger(), nullable=False),
        sa.Column("received_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_nanos >= 0", name=op.f("ck_ledger_receipt_amount")),
        sa.CheckConstraint("sequence > 0", name=op.f("ck_ledger_receipt_sequence")),
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
        sa.PrimaryKeyConstraint("lease_id", "sequence", name=op.f("pk_ledger_receipt")),
        sa.UniqueConstraint("leaf_index", name=op.f("uq_ledger_receipt_leaf_index")),
    )
