"""Replacements: a session has several holds, and a receipt says which epoch it counts in."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003_replacements"
down_revision: str | None = "0002_market"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

MOVED = ("request_digest", "hold_id", "amount_nanos", "settle_by_s")
"""Columns of a session that are now those of its hold."""


def upgrade() -> None:
    # written out: SQLite can add a column with a check of its own, but no check to a table
    op.execute(
        "ALTER TABLE ledger_lane ADD COLUMN epoch BIGINT DEFAULT 0 NOT NULL"
        " CONSTRAINT ck_ledger_lane_epoch CHECK (epoch >= 0)"
    )
    # set aside: SQLite copies a table to alter it, which nobody may refer to meanwhile
    op.execute(
        "CREATE TEMPORARY TABLE moved_hold AS"
        " SELECT s.session_id, s.request_digest, s.hold_id, s.amount_nanos, q.terms,"
        " s.created_at_s, s.settle_by_s"
        " FROM market_session s LEFT JOIN market_quote q ON q.quote_id = s.quote_id"
    )
    with op.batch_alter_table("market_session") as batch:
        batch.drop_constraint(op.f("uq_market_session_hold_id"), type_="unique")
        batch.drop_constraint(op.f("fk_market_session_hold_id_ledger_hold"), type_="foreignkey")
        batch.drop_constraint(op.f("ck_market_session_amount"), type_="check")
        for column in MOVED:
            batch.drop_column(column)
    _create_session_hold()
    op.execute(
        "INSERT INTO market_session_hold (session_id, epoch, request_digest, hold_id,"
        " amount_nanos, terms, created_at_s, settle_by_s)"
        " SELECT session_id, 0, request_digest, hold_id, amount_nanos, terms, created_at_s,"
        " settle_by_s FROM moved_hold"
    )
    op.execute("DROP TABLE moved_hold")


def downgrade() -> None:
    """A session is left with its first hold; the others are settled when their time is over."""
    op.execute(
        "CREATE TEMPORARY TABLE moved_hold AS"
        " SELECT session_id, request_digest, hold_id, amount_nanos, settle_by_s"
        " FROM market_session_hold WHERE epoch = 0"
    )
    op.drop_table("market_session_hold")
    with op.batch_alter_table("market_session") as batch:
        batch.add_column(sa.Column("request_digest", sa.LargeBinary(), nullable=True))
        batch.add_column(sa.Column("hold_id", sa.LargeBinary(), nullable=True))
        batch.add_column(sa.Column("amount_nanos", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("settle_by_s", sa.BigInteger(), nullable=True))
    for column in MOVED:
        op.execute(
            f"UPDATE market_session SET {column} = (SELECT m.{column} FROM moved_hold m"
            " WHERE m.session_id = market_session.session_id)"
        )
    with op.batch_alter_table("market_session") as batch:
        for column in MOVED:
            batch.alter_column(column, nullable=False)
        batch.create_check_constraint(op.f("ck_market_session_amount"), "amount_nanos > 0")
        batch.create_foreign_key(
            op.f("fk_market_session_hold_id_ledger_hold"), "ledger_hold", ["hold_id"], ["hold_id"]
        )
        batch.create_unique_constraint(op.f("uq_market_session_hold_id"), ["hold_id"])
    op.execute("DROP TABLE moved_hold")
    op.execute("ALTER TABLE ledger_lane DROP COLUMN epoch")


def _create_session_hold() -> None:
    op.create_table(
        "market_session_hold",
        sa.Column("session_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("hold_id", sa.LargeBinary(), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("terms", sa.LargeBinary(), nullable=True),
        sa.Column("created_at_s", sa.BigInteger(), nullable=False),
        sa.Column("settle_by_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_nanos > 0", name=op.f("ck_market_session_hold_amount")),
        sa.CheckConstraint(
            "epoch BETWEEN 0 AND 4294967295", name=op.f("ck_market_session_hold_epoch")
        ),
        sa.ForeignKeyConstraint(
            ["hold_id"],
            ["ledger_hold.hold_id"],
            name=op.f("fk_market_session_hold_hold_id_ledger_hold"),
        ),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["market_session.session_id"],
            name=op.f("fk_market_session_hold_session_id_market_session"),
        ),
        sa.PrimaryKeyConstraint("session_id", "epoch", name=op.f("pk_market_session_hold")),
        sa.UniqueConstraint("hold_id", name=op.f("uq_market_session_hold_hold_id")),
    )
