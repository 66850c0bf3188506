"""Holds that grow while a session runs."""

from collections.abc import Sequence

revision: str = "0010_instalments"
down_revision: str | None = "0009_payouts"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
