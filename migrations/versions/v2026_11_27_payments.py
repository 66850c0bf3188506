"""Saved cards, auto-recharge, the inbox of webhooks, refunds, reconciliation."""

from collections.abc import Sequence

revision: str = "0008_payments"
down_revision: str | None = "0007_users"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
