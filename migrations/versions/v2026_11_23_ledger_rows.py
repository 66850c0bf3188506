"""Transfers are named by their code and ref, and say so in a digest; receipts by window."""

from collections.abc import Sequence

revision: str = "0004_ledger"
down_revision: str | None = "0003_replacements"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
