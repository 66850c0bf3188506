"""People who sign in, their sessions, their machines."""

from collections.abc import Sequence

revision: str = "0007_users"
down_revision: str | None = "0006_disputes"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
