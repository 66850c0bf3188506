"""Payouts, their outbox, and the standing of accounts."""

from collections.abc import Sequence

revision: str = "0009_payouts"
down_revision: str | None = "0008_payments"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
