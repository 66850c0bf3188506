"""Instalments: holds that grow while a session runs, and offers that other processes can follow."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010_instalments"
down_revision: str | None = "0009_payouts"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    with op.batch_alter_table("market_session_hold") as batch:
        batch.add_column(sa.Column("funded_rows", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("drafted_rows", sa.BigInteger(), nullable=True))
        batch.create_check_constraint(
            op.f("ck_market_session_hold_funded"),
            "funded_rows >= 0 AND drafted_rows >= 0"
            " AND (funded_rows IS NULL) = (drafted_rows IS NULL)",
        )
        batch.add_column(
            sa.Column(
                "headroom_nanos", sa.BigInteger(), server_default=sa.text("0"), nullable=False
            )
        )
        batch.create_check_constraint(
            op.f("ck_market_session_hold_headroom"), "headroom_nanos >= 0"
        )
    op.create_index(
        "ix_market_session_open",
        "market_session",
        ["account_id"],
        sqlite_where=sa.text("closed_at_s IS NULL"),
        postgresql_where=sa.text("closed_at_s IS NULL"),
    )
    op.add_column(
        "market_offer",
        sa.Column("changed_at_s", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_index(op.f("ix_market_offer_changed_at_s"), "market_offer", ["changed_at_s"])


def downgrade() -> None:
    op.drop_index(op.f("ix_market_offer_changed_at_s"), table_name="market_offer")
    op.drop_column("market_offer", "changed_at_s")
    op.drop_index("ix_market_session_open", table_name="market_session")
    with op.batch_alter_table("market_session_hold") as batch:
        batch.drop_constraint(op.f("ck_market_session_hold_headroom"), type_="check")
        batch.drop_column("headroom_nanos")
        batch.drop_constraint(op.f("ck_market_session_hold_funded"), type_="check")
        batch.drop_column("drafted_rows")
        batch.drop_column("funded_rows")
