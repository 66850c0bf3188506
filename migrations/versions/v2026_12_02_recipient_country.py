"""A recipient has the country it was made in.

Until now every one was made as of the United States, whoever it was for.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from migrations.row_digests import write_digests

revision: str = "0013_recipient_country"
down_revision: str | None = "0012_row_digests"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLE = "market_recipient"
CHECK = "ck_market_recipient_country"


def upgrade() -> None:
    _refuse_data_as_text()
    op.add_column(TABLE, sa.Column("country", sa.String(length=2), nullable=True))
    op.execute(f"UPDATE {TABLE} SET country = 'US'")
    with op.batch_alter_table(TABLE) as batch:
        batch.alter_column("country", existing_type=sa.String(length=2), nullable=False)
        batch.create_check_constraint(op.f(CHECK), "length(country) = 2")
    _digests()


def downgrade() -> None:
    """Recipients stay, and with them, at the processor, their countries."""
    with op.batch_alter_table(TABLE) as batch:
        batch.drop_constraint(op.f(CHECK), type_="check")
        batch.drop_column("country")
    _digests()


def _digests() -> None:
    if not op.get_context().as_sql:
        write_digests(TABLE, ("account_id",), set())


def _refuse_data_as_text() -> None:
    """A script made with --sql cannot compute what the rows' digests become."""
    if op.get_context().as_sql and op.get_context().dialect.name == "postgresql":
        op.execute(
            f"DO $$ BEGIN IF EXISTS (SELECT 1 FROM {TABLE}) THEN RAISE EXCEPTION"
            " 'there is data: let piecework-market bring it over'; END IF; END $$"
        )
