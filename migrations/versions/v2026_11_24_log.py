"""What witnesses have signed, and balance trees."""

from collections.abc import Sequence

revision: str = "0005_log"
down_revision: str | None = "0004_ledger"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
