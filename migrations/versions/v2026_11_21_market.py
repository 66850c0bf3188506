"""The marketplace: accounts, keys, offers, quotes, sessions, payments."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002_market"
down_revision: str | None = "0001_ledger"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = (
    "market_account",
    "market_manifest",
    "market_nonce",
    "market_offer",
    "market_api_key",
    "market_placement",
    "market_quote",
    "market_topup",
    "market_payment_event",
    "market_session",
)


def upgrade() -> None:
    _create_account()
    _create_manifest()
    _create_nonce()
    _create_offer()
    _create_api_key()
    _create_placement()
    _create_quote()
    _create_topup()
    _create_payment_event()
    _create_session()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_account() -> None:
    op.create_table(
        "market_account",
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(name) > 0", name=op.f("ck_market_account_name")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_market_account")),
    )


def _create_manifest() -> None:
    op.create_table(
        "market_manifest",
        sa.Column("manifest_hash", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(280), nullable=False),
        sa.Column("family", sa.String(128), nullable=False),
        sa.Column("layers", sa.BigInteger(), nullable=False),
        sa.Column("hidden_size", sa.BigInteger(), nullable=False),
        sa.Column("context_tokens", sa.BigInteger(), nullable=False),
        sa.Column("licence", sa.String(256), nullable=False),
        sa.Column("resale_allowed", sa.Boolean(), nullable=False),
        sa.Column("registered_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "layers > 0 AND hidden_size > 0 AND context_tokens > 0",
            name=op.f("ck_market_manifest_sizes"),
        ),
        sa.PrimaryKeyConstraint("manifest_hash", name=op.f("pk_market_manifest")),
        sa.UniqueConstraint("name", name=op.f("uq_market_manifest_name")),
    )


def _create_nonce() -> None:
    op.create_table(
        "market_nonce",
        sa.Column("peer_id", sa.String(64), nullable=False),
        sa.Column("nonce", sa.String(32), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("peer_id", "nonce", name=op.f("pk_market_nonce")),
    )
    op.create_index(
        op.f("ix_market_nonce_expires_at_s"), "market_nonce", ["expires_at_s"], unique=False
    )


def _create_offer() -> None:
    op.create_table(
        "market_offer",
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("sequence >= 0", name=op.f("ck_market_offer_sequence")),
        sa.PrimaryKeyConstraint("provider", name=op.f("pk_market_offer")),
    )


def _create_api_key() -> None:
    op.create_table(
        "market_api_key",
        sa.Column("key_id", sa.String(8), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("scopes", sa.String(64), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at_s", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_s", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("length(secret_hash) = 32", name=op.f("ck_market_api_key_secret_hash")),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["market_account.account_id"],
            name=op.f("fk_market_api_key_account_id_market_account"),
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_market_api_key")),
    )
    op.create_index(
        op.f("ix_market_api_key_account_id"), "market_api_key", ["account_id"], unique=False
    )


def _create_placement() -> None:
    op.create_table(
        "market_placement",
        sa.Column("peer_id", sa.String(64), nullable=False),
        sa.Column("manifest_hash", sa.LargeBinary(), nullable=False),
        sa.Column("span_start", sa.BigInteger(), nullable=False),
        sa.Column("span_end", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "span_start >= 0 AND span_start < span_end", name=op.f("ck_market_placement_span")
        ),
        sa.ForeignKeyConstraint(
            ["manifest_hash"],
            ["market_manifest.manifest_hash"],
            name=op.f("fk_market_placement_manifest_hash_market_manifest"),
        ),
        sa.PrimaryKeyConstraint("peer_id", name=op.f("pk_market_placement")),
    )
    op.create_index(
        op.f("ix_market_placement_manifest_hash"),
        "market_placement",
        ["manifest_hash"],
        unique=False,
    )


def _create_quote() -> None:
    op.create_table(
        "market_quote",
        sa.Column("quote_id", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("terms", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "session_id IS NULL OR length(session_id) = 16", name=op.f("ck_market_quote_session_id")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["market_account.account_id"],
            name=op.f("fk_market_quote_account_id_market_account"),
        ),
        sa.PrimaryKeyConstraint("quote_id", name=op.f("pk_market_quote")),
        sa.UniqueConstraint("session_id", name=op.f("uq_market_quote_session_id")),
    )
    op.create_index(
        op.f("ix_market_quote_expires_at_s"), "market_quote", ["expires_at_s"], unique=False
    )


def _create_topup() -> None:
    op.create_table(
        "market_topup",
        sa.Column("topup_id", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("checkout_url", sa.String(2048), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("paid_at_s", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("amount_nanos > 0", name=op.f("ck_market_topup_amount")),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["market_account.account_id"],
            name=op.f("fk_market_topup_account_id_market_account"),
        ),
        sa.PrimaryKeyConstraint("topup_id", name=op.f("pk_market_topup")),
    )
    op.create_index(
        op.f("ix_market_topup_account_id"), "market_topup", ["account_id"], unique=False
    )


def _create_payment_event() -> None:
    op.create_table(
        "market_payment_event",
        sa.Column("event_id", sa.String(255), nullable=False),
        sa.Column("topup_id", sa.LargeBinary(), nullable=False),
        sa.Column("received_at_s", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["topup_id"],
            ["market_topup.topup_id"],
            name=op.f("fk_market_payment_event_topup_id_market_topup"),
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_market_payment_event")),
    )


def _create_session() -> None:
    op.create_table(
        "market_session",
        sa.Column("session_id", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("quote_id", sa.LargeBinary(), nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("hold_id", sa.LargeBinary(), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("settle_by_s", sa.BigInteger(), nullable=False),
        sa.Column("closed_at_s", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("amount_nanos > 0", name=op.f("ck_market_session_amount")),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["market_account.account_id"],
            name=op.f("fk_market_session_account_id_market_account"),
        ),
        sa.ForeignKeyConstraint(
            ["hold_id"], ["ledger_hold.hold_id"], name=op.f("fk_market_session_hold_id_ledger_hold")
        ),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_market_session")),
        sa.UniqueConstraint("hold_id", name=op.f("uq_market_session_hold_id")),
        sa.UniqueConstraint("quote_id", name=op.f("uq_market_session_quote_id")),
    )
    op.create_index(
        op.f("ix_market_session_account_id_created_at_s"),
        "market_session",
        ["account_id", "created_at_s"],
        unique=False,
    )
    op.create_index(
        op.f("ix_market_session_closed_at_s"), "market_session", ["closed_at_s"], unique=False
    )
