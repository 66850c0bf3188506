"""People who sign in, their sessions, their machines; what a key may spend."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007_users"
down_revision: str | None = "0006_disputes"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = (
    "market_user",
    "market_member",
    "market_login",
    "market_recovery_code",
    "market_invitation",
    "market_mail",
    "market_attempt",
    "market_machine",
    "market_binding",
    "market_device_code",
    "market_budget",
    "market_key_hold",
)
"""In the order in which they are made."""


def upgrade() -> None:
    _create_people()
    _create_letters()
    _create_machines()
    _create_budgets()
    with op.batch_alter_table("market_api_key") as batch:
        batch.add_column(sa.Column("expires_at_s", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("requests_per_minute_max", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("budget_id", sa.String(length=8), nullable=True))
        batch.create_check_constraint(
            op.f("ck_market_api_key_requests_per_minute_max"), "requests_per_minute_max > 0"
        )
        batch.create_foreign_key(
            op.f("fk_market_api_key_budget_id_market_budget"),
            "market_budget",
            ["budget_id"],
            ["budget_id"],
        )


def downgrade() -> None:
    """Keys stay, without their limits."""
    with op.batch_alter_table("market_api_key") as batch:
        batch.drop_constraint(op.f("fk_market_api_key_budget_id_market_budget"), type_="foreignkey")
        batch.drop_constraint(op.f("ck_market_api_key_requests_per_minute_max"), type_="check")
        for column in ("budget_id", "requests_per_minute_max", "expires_at_s"):
            batch.drop_column(column)
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_people() -> None:
    """People, their places in accounts, their web sessions, their letters."""
    op.create_table(
        "market_user",
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("password_hash", sa.String(length=256), nullable=False),
        sa.Column("is_operator", sa.Boolean(), nullable=False),
        sa.Column("totp_salt", sa.LargeBinary(), nullable=True),
        sa.Column("totp_confirmed_at_s", sa.BigInteger(), nullable=True),
        sa.Column("totp_last_step", sa.BigInteger(), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("confirmed_at_s", sa.BigInteger(), nullable=True),
        sa.Column("password_changed_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(email) > 2", name=op.f("ck_market_user_email")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_market_user")),
        sa.UniqueConstraint("email", name=op.f("uq_market_user_email")),
    )
    op.create_table(
        "market_member",
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("role IN ('owner', 'member')", name=op.f("ck_market_member_role")),
        _of_account("market_member"),
        _of_user("market_member"),
        sa.PrimaryKeyConstraint("account_id", "user_id", name=op.f("pk_market_member")),
    )
    op.create_index(op.f("ix_market_member_user_id"), "market_member", ["user_id"])
    op.create_table(
        "market_login",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("login_id", sa.String(length=16), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("agent", sa.String(length=128), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("seen_at_s", sa.BigInteger(), nullable=False),
        sa.Column("code_at_s", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(token_hash) = 32", name=op.f("ck_market_login_token_hash")),
        _of_account("market_login"),
        _of_user("market_login"),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_market_login")),
        sa.UniqueConstraint("login_id", name=op.f("uq_market_login_login_id")),
    )
    op.create_index(op.f("ix_market_login_expires_at_s"), "market_login", ["expires_at_s"])
    op.create_index(op.f("ix_market_login_user_id"), "market_login", ["user_id"])


def _create_letters() -> None:
    """What lets somebody in once, the letters it is in, and how often it was tried."""
    op.create_table(
        "market_recovery_code",
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(
            "length(code_hash) = 32", name=op.f("ck_market_recovery_code_code_hash")
        ),
        _of_user("market_recovery_code"),
        sa.PrimaryKeyConstraint("user_id", "code_hash", name=op.f("pk_market_recovery_code")),
    )
    op.create_table(
        "market_invitation",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("purpose", sa.String(length=8), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("account_id", sa.String(length=32), nullable=True),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(purpose = 'member') = (account_id IS NOT NULL)",
            name=op.f("ck_market_invitation_account"),
        ),
        sa.CheckConstraint(
            "purpose IN ('confirm', 'reset', 'member', 'operator')",
            name=op.f("ck_market_invitation_purpose"),
        ),
        sa.CheckConstraint("length(token_hash) = 32", name=op.f("ck_market_invitation_token_hash")),
        _of_account("market_invitation"),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_market_invitation")),
    )
    op.create_index(
        op.f("ix_market_invitation_email_purpose"), "market_invitation", ["email", "purpose"]
    )
    op.create_index(
        op.f("ix_market_invitation_expires_at_s"), "market_invitation", ["expires_at_s"]
    )
    op.create_table(
        "market_mail",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("taken_at_s", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_market_mail")),
    )
    op.create_index(op.f("ix_market_mail_taken_at_s_id"), "market_mail", ["taken_at_s", "id"])
    op.create_table(
        "market_attempt",
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("window_start_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("attempts > 0", name=op.f("ck_market_attempt_attempts")),
        sa.CheckConstraint("length(subject) = 32", name=op.f("ck_market_attempt_subject")),
        sa.PrimaryKeyConstraint("subject", "window_start_s", name=op.f("pk_market_attempt")),
    )
    op.create_index(op.f("ix_market_attempt_expires_at_s"), "market_attempt", ["expires_at_s"])


def _create_machines() -> None:
    """Whose each machine is and was, and nodes that wait to be told."""
    op.create_table(
        "market_machine",
        sa.Column("peer_id", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("bound_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(name) > 0", name=op.f("ck_market_machine_name")),
        _of_account("market_machine"),
        sa.PrimaryKeyConstraint("peer_id", name=op.f("pk_market_machine")),
    )
    op.create_index(op.f("ix_market_machine_account_id"), "market_machine", ["account_id"])
    op.create_table(
        "market_binding",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("peer_id", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.String(length=32), nullable=False),
        sa.Column("bound_at_s", sa.BigInteger(), nullable=False),
        sa.Column("bound_by", sa.String(length=48), nullable=False),
        sa.Column("unbound_at_s", sa.BigInteger(), nullable=True),
        sa.Column("unbound_by", sa.String(length=48), nullable=True),
        sa.CheckConstraint("unbound_at_s >= bound_at_s", name=op.f("ck_market_binding_order")),
        _of_account("market_binding"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_market_binding")),
    )
    op.create_index(op.f("ix_market_binding_account_id"), "market_binding", ["account_id"])
    op.create_index(
        op.f("ix_market_binding_peer_id_bound_at_s"), "market_binding", ["peer_id", "bound_at_s"]
    )
    op.create_table(
        "market_device_code",
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_code", sa.String(length=8), nullable=False),
        sa.Column("peer_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("purpose", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("account_id", sa.String(length=32), nullable=True),
        sa.Column("interval_s", sa.BigInteger(), nullable=False),
        sa.Column("polled_at_s", sa.BigInteger(), nullable=True),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(state IN ('approved', 'done')) = (account_id IS NOT NULL)",
            name=op.f("ck_market_device_code_account"),
        ),
        sa.CheckConstraint(
            "purpose IN ('machine', 'key')", name=op.f("ck_market_device_code_purpose")
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'approved', 'denied', 'done')",
            name=op.f("ck_market_device_code_state"),
        ),
        sa.CheckConstraint("length(code_hash) = 32", name=op.f("ck_market_device_code_code_hash")),
        _of_account("market_device_code"),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_market_device_code")),
        sa.UniqueConstraint("user_code", name=op.f("uq_market_device_code_user_code")),
    )
    op.create_index(
        op.f("ix_market_device_code_expires_at_s"), "market_device_code", ["expires_at_s"]
    )
    op.create_index(op.f("ix_market_device_code_peer_id"), "market_device_code", ["peer_id"])


def _create_budgets() -> None:
    """What a key may spend, and which key each hold was made with."""
    op.create_table(
        "market_budget",
        sa.Column("budget_id", sa.String(length=8), nullable=False),
        sa.Column("limit_nanos", sa.BigInteger(), nullable=True),
        sa.Column("reset", sa.String(length=8), nullable=False),
        sa.Column("period_start_s", sa.BigInteger(), nullable=False),
        sa.Column("reserved_nanos", sa.BigInteger(), nullable=False),
        sa.Column("spent_nanos", sa.BigInteger(), nullable=False),
        sa.Column("parallel_max", sa.BigInteger(), nullable=True),
        sa.Column("open_sessions", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "reset IN ('never', 'day', 'week', 'month')", name=op.f("ck_market_budget_reset")
        ),
        sa.CheckConstraint("limit_nanos >= 0", name=op.f("ck_market_budget_limit")),
        sa.CheckConstraint("open_sessions >= 0", name=op.f("ck_market_budget_open_sessions")),
        sa.CheckConstraint("parallel_max > 0", name=op.f("ck_market_budget_parallel_max")),
        sa.CheckConstraint(
            "reserved_nanos >= 0 AND spent_nanos >= 0", name=op.f("ck_market_budget_amounts")
        ),
        sa.PrimaryKeyConstraint("budget_id", name=op.f("pk_market_budget")),
    )
    op.create_table(
        "market_key_hold",
        sa.Column("hold_id", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=8), nullable=False),
        sa.Column("budget_id", sa.String(length=8), nullable=True),
        sa.Column("period_start_s", sa.BigInteger(), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("charged_nanos", sa.BigInteger(), nullable=True),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_nanos > 0", name=op.f("ck_market_key_hold_amount")),
        sa.CheckConstraint(
            "charged_nanos BETWEEN 0 AND amount_nanos", name=op.f("ck_market_key_hold_charged")
        ),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_market_key_hold")),
    )
    op.create_index(
        op.f("ix_market_key_hold_key_id_created_at_s"),
        "market_key_hold",
        ["key_id", "created_at_s"],
    )
    op.create_index(
        "ix_market_key_hold_open",
        "market_key_hold",
        ["hold_id"],
        sqlite_where=sa.text("charged_nanos IS NULL"),
        postgresql_where=sa.text("charged_nanos IS NULL"),
    )


def _of_account(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_account_id_market_account")
    return sa.ForeignKeyConstraint(["account_id"], ["market_account.account_id"], name=name)


def _of_user(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_user_id_market_user")
    return sa.ForeignKeyConstraint(["user_id"], ["market_user.user_id"], name=name)
