"""Parked money, equivocations and rulings."""

from collections.abc import Sequence

revision: str = "0006_disputes"
down_revision: str | None = "0005_log"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
