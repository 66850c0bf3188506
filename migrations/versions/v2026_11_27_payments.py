"""Payments: how a top-up is paid, saved cards, refunds, chargebacks, webhooks, reconciliation."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008_payments"
down_revision: str | None = "0007_users"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = (
    "market_payment",
    "market_billing",
    "market_recharge",
    "market_refund",
    "market_chargeback",
    "market_webhook",
    "market_processor_transaction",
    "market_reconciliation",
    "market_finding",
)
"""In the order in which they are made."""


def upgrade() -> None:
    _create_payments()
    _create_recharge()
    _create_returns()
    _create_inbox()
    _create_reconciliation()
    # every top-up so far was opened as a checkout; what it was paid by is not known
    op.execute(
        "INSERT INTO market_payment (topup_id, method, checkout_id, attempt, expires_at_s,"
        " payment_id, receipt_url, failure, refunded_nanos)"
        " SELECT topup_id, 'checkout', '', 1, 0, '', '', '', 0 FROM market_topup"
    )


def downgrade() -> None:
    """Top-ups stay as they were paid; what went back stays in the ledger."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_payments() -> None:
    op.create_table(
        "market_payment",
        sa.Column("topup_id", sa.LargeBinary(), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("checkout_id", sa.String(length=255), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("payment_id", sa.String(length=255), nullable=False),
        sa.Column("receipt_url", sa.String(length=2048), nullable=False),
        sa.Column("failure", sa.String(length=64), nullable=False),
        sa.Column("refunded_nanos", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("method IN ('checkout', 'card')", name=op.f("ck_market_payment_method")),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_market_payment_attempt")),
        sa.CheckConstraint("refunded_nanos >= 0", name=op.f("ck_market_payment_refunded")),
        _foreign("market_payment", "topup_id", "market_topup"),
        sa.PrimaryKeyConstraint("topup_id", name=op.f("pk_market_payment")),
    )
    op.create_index(
        op.f("ix_market_payment_checkout_id"), "market_payment", ["checkout_id"], unique=False
    )
    _partial_index(
        "uq_market_payment_payment_id",
        "market_payment",
        "payment_id",
        "payment_id <> ''",
        unique=True,
    )
    op.create_table(
        "market_billing",
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("customer", sa.String(length=255), nullable=False),
        sa.Column("card_id", sa.String(length=255), nullable=False),
        sa.Column("card_brand", sa.String(length=32), nullable=False),
        sa.Column("card_last4", sa.String(length=4), nullable=False),
        sa.Column("card_expiry_month", sa.BigInteger(), nullable=False),
        sa.Column("card_expiry_year", sa.BigInteger(), nullable=False),
        sa.Column("setup_checkout_id", sa.String(length=255), nullable=False),
        sa.Column("recharge_enabled", sa.Boolean(), nullable=False),
        sa.Column("threshold_nanos", sa.BigInteger(), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("monthly_nanos_max", sa.BigInteger(), nullable=False),
        sa.Column("stopped_reason", sa.String(length=64), nullable=False),
        sa.Column("changed_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "NOT recharge_enabled OR (card_id <> '' AND amount_nanos > 0)",
            name=op.f("ck_market_billing_recharge"),
        ),
        sa.CheckConstraint(
            "threshold_nanos >= 0 AND amount_nanos >= 0 AND monthly_nanos_max >= 0",
            name=op.f("ck_market_billing_amounts"),
        ),
        _foreign("market_billing", "account_id", "market_account"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_market_billing")),
    )


def _create_recharge() -> None:
    op.create_table(
        "market_recharge",
        sa.Column("topup_id", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("card_id", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("next_at_s", sa.BigInteger(), nullable=False),
        sa.Column("missed_at_s", sa.BigInteger(), nullable=True),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('open', 'paid', 'failed')", name=op.f("ck_market_recharge_state")
        ),
        sa.CheckConstraint("amount_nanos > 0", name=op.f("ck_market_recharge_amount")),
        _foreign("market_recharge", "account_id", "market_account"),
        _foreign("market_recharge", "topup_id", "market_topup"),
        sa.PrimaryKeyConstraint("topup_id", name=op.f("pk_market_recharge")),
    )
    op.create_index(
        op.f("ix_market_recharge_account_id_month"),
        "market_recharge",
        ["account_id", "month"],
        unique=False,
    )
    _partial_index(
        "uq_market_recharge_open", "market_recharge", "account_id", "state = 'open'", unique=True
    )


def _create_returns() -> None:
    op.create_table(
        "market_refund",
        sa.Column("refund_id", sa.LargeBinary(), nullable=False),
        sa.Column("topup_id", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("asked_by", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("processor_id", sa.String(length=255), nullable=False),
        sa.Column("failure", sa.String(length=64), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("next_at_s", sa.BigInteger(), nullable=False),
        sa.Column("missed_at_s", sa.BigInteger(), nullable=True),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('reserved', 'submitted', 'succeeded', 'failed')",
            name=op.f("ck_market_refund_state"),
        ),
        sa.CheckConstraint("amount_nanos > 0", name=op.f("ck_market_refund_amount")),
        _foreign("market_refund", "account_id", "market_account"),
        _foreign("market_refund", "topup_id", "market_topup"),
        sa.PrimaryKeyConstraint("refund_id", name=op.f("pk_market_refund")),
    )
    op.create_index(
        op.f("ix_market_refund_account_id"), "market_refund", ["account_id"], unique=False
    )
    _partial_index(
        "ix_market_refund_open",
        "market_refund",
        "next_at_s",
        "state IN ('reserved', 'submitted')",
        unique=False,
    )
    op.create_index(op.f("ix_market_refund_topup_id"), "market_refund", ["topup_id"], unique=False)
    op.create_table(
        "market_chargeback",
        sa.Column("dispute_id", sa.String(length=255), nullable=False),
        sa.Column("topup_id", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("cash_nanos", sa.BigInteger(), nullable=False),
        sa.Column("loss_nanos", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("opened_at_s", sa.BigInteger(), nullable=False),
        sa.Column("closed_at_s", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('open', 'won', 'lost')", name=op.f("ck_market_chargeback_state")
        ),
        sa.CheckConstraint(
            "cash_nanos + loss_nanos = amount_nanos", name=op.f("ck_market_chargeback_whole")
        ),
        sa.CheckConstraint(
            "cash_nanos >= 0 AND loss_nanos >= 0", name=op.f("ck_market_chargeback_parts")
        ),
        _foreign("market_chargeback", "account_id", "market_account"),
        _foreign("market_chargeback", "topup_id", "market_topup"),
        sa.PrimaryKeyConstraint("dispute_id", name=op.f("pk_market_chargeback")),
    )
    op.create_index(
        op.f("ix_market_chargeback_account_id"), "market_chargeback", ["account_id"], unique=False
    )
    op.create_index(
        op.f("ix_market_chargeback_topup_id"), "market_chargeback", ["topup_id"], unique=False
    )


def _create_inbox() -> None:
    op.create_table(
        "market_webhook",
        sa.Column("event_id", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=255), nullable=False),
        sa.Column("object_id", sa.String(length=255), nullable=False),
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("next_at_s", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.String(length=512), nullable=False),
        sa.Column("received_at_s", sa.BigInteger(), nullable=False),
        sa.Column("done_at_s", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('new', 'done', 'dead')", name=op.f("ck_market_webhook_state")
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_market_webhook")),
    )
    _partial_index(
        "ix_market_webhook_new", "market_webhook", "next_at_s", "state = 'new'", unique=False
    )


def _create_reconciliation() -> None:
    op.create_table(
        "market_processor_transaction",
        sa.Column("transaction_id", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("fee_cents", sa.BigInteger(), nullable=False),
        sa.Column("net_cents", sa.BigInteger(), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("is_available", sa.Boolean(), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("ref", sa.String(length=160), nullable=False),
        sa.CheckConstraint(
            "net_cents = amount_cents - fee_cents", name=op.f("ck_market_processor_transaction_net")
        ),
        sa.PrimaryKeyConstraint("transaction_id", name=op.f("pk_market_processor_transaction")),
    )
    op.create_index(
        op.f("ix_market_processor_transaction_code_ref"),
        "market_processor_transaction",
        ["code", "ref"],
        unique=False,
    )
    op.create_index(
        op.f("ix_market_processor_transaction_created_at_s"),
        "market_processor_transaction",
        ["created_at_s"],
        unique=False,
    )
    op.create_table(
        "market_reconciliation",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("started_at_s", sa.BigInteger(), nullable=False),
        sa.Column("walked_since_s", sa.BigInteger(), nullable=False),
        sa.Column("transactions", sa.BigInteger(), nullable=False),
        sa.Column("processor_nanos", sa.BigInteger(), nullable=False),
        sa.Column("walked_nanos", sa.BigInteger(), nullable=False),
        sa.Column("book_nanos", sa.BigInteger(), nullable=False),
        sa.Column("in_flight_nanos", sa.BigInteger(), nullable=False),
        sa.Column("findings_open", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_market_reconciliation")),
    )
    op.create_table(
        "market_finding",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=320), nullable=False),
        sa.Column("book_nanos", sa.BigInteger(), nullable=False),
        sa.Column("processor_nanos", sa.BigInteger(), nullable=False),
        sa.Column("found_at_s", sa.BigInteger(), nullable=False),
        sa.Column("resolved_at_s", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('missing_here', 'missing_there', 'other_amount', 'balance')",
            name=op.f("ck_market_finding_kind"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_market_finding")),
        sa.UniqueConstraint("kind", "subject", name=op.f("uq_market_finding_kind_subject")),
    )


def _partial_index(name: str, table: str, column: str, where: str, *, unique: bool) -> None:
    """Over some of the rows only; both engines know such."""
    when = sa.text(where)
    op.create_index(name, table, [column], unique=unique, sqlite_where=when, postgresql_where=when)


def _foreign(table: str, column: str, parent: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{parent}")
    return sa.ForeignKeyConstraint([column], [f"{parent}.{column}"], name=name)
