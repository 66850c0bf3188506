"""What two people decide together."""

from collections.abc import Sequence

revision: str = "0011_operations"
down_revision: str | None = "0010_instalments"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
