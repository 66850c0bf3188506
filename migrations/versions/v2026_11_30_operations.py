"""What two people decide together; a session says which key and model it was for."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011_operations"
down_revision: str | None = "0010_instalments"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE market_session ADD COLUMN key_id VARCHAR(8) DEFAULT '' NOT NULL")
    op.execute("ALTER TABLE market_session ADD COLUMN model VARCHAR(128) DEFAULT '' NOT NULL")
    op.execute("ALTER TABLE market_session ADD COLUMN layers BIGINT DEFAULT 0 NOT NULL")
    op.create_table(
        "market_approval",
        sa.Column("approval_id", sa.LargeBinary(), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("parameters", sa.String(4096), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("asked_by", sa.String(32), nullable=False),
        sa.Column("asked_at_s", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("decided_by", sa.String(32), nullable=True),
        sa.Column("decided_at_s", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(16), nullable=True),
        sa.CheckConstraint("length(reason) > 0", name=op.f("ck_market_approval_reason")),
        sa.CheckConstraint(
            "outcome IN ('done', 'refused', 'withdrawn', 'failed')",
            name=op.f("ck_market_approval_outcome"),
        ),
        sa.CheckConstraint(
            "outcome <> 'done' OR decided_by <> asked_by",
            name=op.f("ck_market_approval_two_people"),
        ),
        sa.CheckConstraint(
            "(outcome IS NULL) = (decided_at_s IS NULL)", name=op.f("ck_market_approval_decided")
        ),
        sa.ForeignKeyConstraint(
            ["asked_by"],
            ["market_user.user_id"],
            name=op.f("fk_market_approval_asked_by_market_user"),
        ),
        sa.ForeignKeyConstraint(
            ["decided_by"],
            ["market_user.user_id"],
            name=op.f("fk_market_approval_decided_by_market_user"),
        ),
        sa.PrimaryKeyConstraint("approval_id", name=op.f("pk_market_approval")),
    )
    op.create_index(
        op.f("ix_market_approval_outcome_asked_at_s"), "market_approval", ["outcome", "asked_at_s"]
    )


def downgrade() -> None:
    op.drop_table("market_approval")
    for column in ("layers", "model", "key_id"):
        op.execute(f"ALTER TABLE market_session DROP COLUMN {column}")
