"""Rows of the marketplace's tables carry a digest of themselves, as the ledger's do.

Digests are computed here, so a database that holds data cannot be brought over by SQL alone.
"""

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa
from alembic import op

from migrations.row_digests import write_digests

revision: str = "0012_row_digests"
down_revision: str | None = "0011_operations"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES: Mapping[str, Sequence[str]] = {
    "ledger_balance_snapshot": ("snapshot_id",),
    "ledger_checkpoint": ("size",),
    "ledger_cosignature": ("size", "witness"),
    "ledger_dispute": ("dispute_id",),
    "ledger_dispute_lease": ("dispute_id", "lease_id"),
    "ledger_equivocation": ("lease_id",),
    "ledger_loose_end": ("lease_id",),
    "ledger_mismatch": ("sender_lease", "receiver_lease", "epoch", "steps"),
    "market_account": ("account_id",),
    "market_api_key": ("key_id",),
    "market_approval": ("approval_id",),
    "market_billing": ("account_id",),
    "market_binding": ("id",),
    "market_budget": ("budget_id",),
    "market_chargeback": ("dispute_id",),
    "market_device_code": ("code_hash",),
    "market_dispute_statement": ("statement_id",),
    "market_finding": ("id",),
    "market_fingerprint": ("account_id", "kind", "digest"),
    "market_freeze": ("id",),
    "market_held": ("machine", "period_s", "reason", "buyer"),
    "market_invitation": ("token_hash",),
    "market_key_hold": ("hold_id",),
    "market_link_allowed": ("provider_account", "buyer_account"),
    "market_login": ("token_hash",),
    "market_machine": ("peer_id",),
    "market_mail": ("id",),
    "market_manifest": ("manifest_hash",),
    "market_member": ("account_id", "user_id"),
    "market_outbox": ("id",),
    "market_payment": ("topup_id",),
    "market_payment_event": ("event_id",),
    "market_payout": ("payout_id",),
    "market_payout_alarm": ("id",),
    "market_payout_terms": ("account_id",),
    "market_processor_transaction": ("transaction_id",),
    "market_quote": ("quote_id",),
    "market_recharge": ("topup_id",),
    "market_recipient": ("account_id",),
    "market_reconciliation": ("id",),
    "market_recovery_code": ("user_id", "code_hash"),
    "market_refund": ("refund_id",),
    "market_release": ("machine", "period_s"),
    "market_session": ("session_id",),
    "market_session_hold": ("session_id", "epoch"),
    "market_topup": ("topup_id",),
    "market_user": ("user_id",),
    "market_verification": ("account_id",),
    "market_webhook": ("event_id",),
}
"""With their keys."""

NOT_COVERED: Mapping[str, Collection[str]] = {
    "market_api_key": {"last_used_at_s"},
    "market_budget": {"reserved_nanos", "spent_nanos", "open_sessions"},
    "market_quote": {"session_id"},
}


def upgrade() -> None:
    _refuse_data_as_text()
    is_empty = sa.text("row_digest IS NULL")
    for table, keys in TABLES.items():
        op.add_column(table, sa.Column("row_digest", sa.LargeBinary(), nullable=True))
        if not op.get_context().as_sql:
            # what is counted at the INSERT cannot be covered
            counted = {"id"} if keys == ("id",) else set()
            write_digests(table, keys, {*counted, *NOT_COVERED.get(table, ())})
        op.create_index(
            f"ix_{table}_no_digest",
            table,
            list(keys),
            sqlite_where=is_empty,
            postgresql_where=is_empty,
        )


def downgrade() -> None:
    for table in TABLES:
        op.drop_index(f"ix_{table}_no_digest", table)
        op.execute(f"ALTER TABLE {table} DROP COLUMN row_digest")


def _refuse_data_as_text() -> None:
    """A script made with --sql must not leave rows without what it cannot compute."""
    if op.get_context().as_sql and op.get_context().dialect.name == "postgresql":
        found = " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in TABLES)
        op.execute(
            f"DO $$ BEGIN IF {found} THEN RAISE EXCEPTION"
            " 'there is data: let piecework-market bring it over'; END IF; END $$"
        )
