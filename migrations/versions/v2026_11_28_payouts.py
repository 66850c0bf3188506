"""Payouts, their outbox, releases of earnings, and the standing of accounts."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0009_payouts"
down_revision: str | None = "0008_payments"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = (
    "market_freeze", "market_fingerprint", "market_verification", "market_link_allowed",
    "market_recipient", "market_payout_terms", "market_outbox", "market_payout",
    "market_payout_alarm", "market_release", "market_held",
)  # fmt: skip
"""In an order in which each refers only to those before it."""
STATES = (
    "'draft', 'reserved', 'submitting', 'submitted', 'paid', 'failed', 'reversed', 'held',"
    " 'canceled'"
)


def upgrade() -> None:
    _create_standing()
    _create_terms()
    _create_payouts()
    _create_alarms()
    _create_releases()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_standing() -> None:
    op.create_table(
        "market_freeze",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        _text("account_id", 32),
        _text("reason", 200),
        _int("frozen_at_s"),
        _int("lifted_at_s", nullable=True),
        _check("ck_market_freeze_reason", "length(reason) > 0"),
        _check("ck_market_freeze_order", "lifted_at_s >= frozen_at_s"),
        _account("market_freeze", "account_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_market_freeze")),
    )
    op.create_index("ix_market_freeze_account_id", "market_freeze", ["account_id"])
    op.create_index(
        "uq_market_freeze_open",
        "market_freeze",
        ["account_id", "reason"],
        unique=True,
        **_where("lifted_at_s IS NULL"),
    )
    op.create_table(
        "market_fingerprint",
        _text("account_id", 32),
        _text("kind", 8),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        _int("first_seen_at_s"),
        _int("last_seen_at_s"),
        _check("ck_market_fingerprint_kind", "kind IN ('card', 'bank', 'ip')"),
        _check("ck_market_fingerprint_order", "last_seen_at_s >= first_seen_at_s"),
        _check("ck_market_fingerprint_digest", "length(digest) = 32"),
        _account("market_fingerprint", "account_id"),
        sa.PrimaryKeyConstraint("account_id", "kind", "digest", name=op.f("pk_market_fingerprint")),
    )
    op.create_index("ix_market_fingerprint_kind_digest", "market_fingerprint", ["kind", "digest"])
    op.create_table(
        "market_verification",
        _text("account_id", 32),
        _int("verified_at_s"),
        _account("market_verification", "account_id"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_market_verification")),
    )
    op.create_table(
        "market_link_allowed",
        _text("provider_account", 32),
        _text("buyer_account", 32),
        _text("approval_id", 64),
        _int("allowed_at_s"),
        _account("market_link_allowed", "buyer_account"),
        _account("market_link_allowed", "provider_account"),
        sa.PrimaryKeyConstraint(
            "provider_account", "buyer_account", name=op.f("pk_market_link_allowed")
        ),
    )


def _create_terms() -> None:
    op.create_table(
        "market_recipient",
        _text("account_id", 32),
        _text("recipient", 255),
        sa.Column("payouts_enabled", sa.Boolean(), nullable=False),
        _text("missing", 2048),
        _int("created_at_s"),
        _int("checked_at_s", nullable=True),
        _int("bank_paid_at_s"),
        _int("bank_failed_at_s"),
        _account("market_recipient", "account_id"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_market_recipient")),
        sa.UniqueConstraint("recipient", name=op.f("uq_market_recipient_recipient")),
    )
    op.create_table(
        "market_payout_terms",
        _text("account_id", 32),
        _text("schedule", 8),
        _int("minimum_cents"),
        _int("changed_at_s"),
        _int("exit_at_s", nullable=True),
        _check("ck_market_payout_terms_schedule", "schedule IN ('weekly', 'manual')"),
        _check("ck_market_payout_terms_minimum", "minimum_cents > 0"),
        _account("market_payout_terms", "account_id"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_market_payout_terms")),
    )
    op.create_table(
        "market_outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        _text("topic", 32),
        _text("key", 160),
        _text("payload", 4096),
        _int("created_at_s"),
        _int("not_before_s"),
        _int("attempts"),
        _int("done_at_s", nullable=True),
        _int("dead_at_s", nullable=True),
        _text("last_error", 500),
        _check("ck_market_outbox_attempts", "attempts >= 0"),
        _check("ck_market_outbox_one_end", "done_at_s IS NULL OR dead_at_s IS NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_market_outbox")),
        sa.UniqueConstraint("key", name=op.f("uq_market_outbox_key")),
    )
    op.create_index(
        "ix_market_outbox_due",
        "market_outbox",
        ["topic", "not_before_s"],
        **_where("done_at_s IS NULL AND dead_at_s IS NULL"),
    )


def _create_payouts() -> None:
    op.create_table(
        "market_payout",
        sa.Column("payout_id", sa.LargeBinary(), nullable=False),
        _text("account_id", 32),
        _text("recipient", 255),
        _text("origin", 8),
        _int("amount_nanos"),
        _int("amount_cents"),
        _text("state", 12),
        _text("reason", 200),
        _int("attempt"),
        _int("attempt_at_s", nullable=True),
        _int("deadline_s", nullable=True),
        _int("missed_at_s", nullable=True),
        sa.Column("transfer_id", sa.String(length=255), nullable=True),
        _int("transfer_at_s", nullable=True),
        _int("reversed_cents"),
        _int("created_at_s"),
        _int("changed_at_s"),
        _check(
            "ck_market_payout_transfer",
            "CASE WHEN state IN ('submitted', 'paid', 'reversed') THEN transfer_id IS NOT NULL"
            " WHEN state = 'failed' THEN 1 = 1 ELSE transfer_id IS NULL END",
        ),
        _check("ck_market_payout_origin", "origin IN ('weekly', 'manual')"),
        _check(
            "ck_market_payout_deadline",
            "state <> 'submitting' OR (attempt > 0 AND deadline_s IS NOT NULL)",
        ),
        _check("ck_market_payout_state", f"state IN ({STATES})"),
        _check("ck_market_payout_cents", "amount_cents > 0"),
        _check("ck_market_payout_amount", "amount_nanos = amount_cents * 10000000"),
        _check("ck_market_payout_attempt", "attempt >= 0"),
        _check("ck_market_payout_payout_id", "length(payout_id) = 16"),
        _check("ck_market_payout_reversed", "reversed_cents BETWEEN 0 AND amount_cents"),
        _account("market_payout", "account_id"),
        sa.PrimaryKeyConstraint("payout_id", name=op.f("pk_market_payout")),
        sa.UniqueConstraint("transfer_id", name=op.f("uq_market_payout_transfer_id")),
    )
    op.create_index(
        "ix_market_payout_account_id_created_at_s", "market_payout", ["account_id", "created_at_s"]
    )
    op.create_index("ix_market_payout_state_deadline_s", "market_payout", ["state", "deadline_s"])
    op.create_index(
        "uq_market_payout_open",
        "market_payout",
        ["account_id"],
        unique=True,
        **_where("state IN ('draft', 'reserved', 'submitting', 'held')"),
    )


def _create_alarms() -> None:
    op.create_table(
        "market_payout_alarm",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("payout_id", sa.LargeBinary(), nullable=False),
        _text("kind", 32),
        _int("attempt"),
        _text("detail", 500),
        _int("raised_at_s"),
        _int("seen_at_s", nullable=True),
        sa.ForeignKeyConstraint(
            ["payout_id"],
            ["market_payout.payout_id"],
            name=op.f("fk_market_payout_alarm_payout_id_market_payout"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_market_payout_alarm")),
    )
    op.create_index(
        "uq_market_payout_alarm_once",
        "market_payout_alarm",
        ["payout_id", "kind", "attempt"],
        unique=True,
    )


def _create_releases() -> None:
    op.create_table(
        "market_release",
        _text("machine", 64),
        sa.Column("period_s", sa.BigInteger(), autoincrement=False, nullable=False),
        _text("account_id", 32),
        _int("credited_nanos"),
        _int("amount_nanos"),
        _int("payable_nanos"),
        _int("held_nanos"),
        _text("reasons", 200),
        _int("until_s", nullable=True),
        _int("released_at_s"),
        _check("ck_market_release_amount", "amount_nanos BETWEEN 0 AND credited_nanos"),
        _check("ck_market_release_credited", "credited_nanos > 0"),
        _check(
            "ck_market_release_parts",
            "payable_nanos >= 0 AND held_nanos >= 0 AND payable_nanos + held_nanos = amount_nanos",
        ),
        _account("market_release", "account_id"),
        sa.PrimaryKeyConstraint("machine", "period_s", name=op.f("pk_market_release")),
    )
    op.create_index(
        "ix_market_release_account_id_period_s", "market_release", ["account_id", "period_s"]
    )
    op.create_table(
        "market_held",
        _text("machine", 64),
        sa.Column("period_s", sa.BigInteger(), autoincrement=False, nullable=False),
        _text("reason", 16),
        _text("buyer", 32),
        _text("account_id", 32),
        _int("amount_nanos"),
        _int("until_s"),
        _int("given_back_at_s", nullable=True),
        _int("given_back_nanos", nullable=True),
        _check(
            "ck_market_held_given_back_at", "(given_back_at_s IS NULL) = (given_back_nanos IS NULL)"
        ),
        _check("ck_market_held_amount", "amount_nanos > 0"),
        _check("ck_market_held_given_back", "given_back_nanos BETWEEN 0 AND amount_nanos"),
        _account("market_held", "account_id"),
        sa.ForeignKeyConstraint(
            ["machine", "period_s"],
            ["market_release.machine", "market_release.period_s"],
            name=op.f("fk_market_held_machine_period_s_market_release"),
        ),
        sa.PrimaryKeyConstraint(
            "machine", "period_s", "reason", "buyer", name=op.f("pk_market_held")
        ),
    )
    op.create_index("ix_market_held_account_id", "market_held", ["account_id"])
    op.create_index(
        "ix_market_held_due", "market_held", ["until_s"], **_where("given_back_at_s IS NULL")
    )


def _int(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), autoincrement=False, nullable=nullable)


def _text(name: str, characters: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=characters), nullable=False)


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(name))


def _account(table: str, column: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_market_account")
    return sa.ForeignKeyConstraint([column], ["market_account.account_id"], name=name)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}
