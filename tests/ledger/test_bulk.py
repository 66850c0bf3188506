"""Many rows in one statement fail as one row would."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from ledger.bulk import insert_rows
from ledger.database import Session, metadata
from ledger.tree_models import NodeRow

NODE = metadata.tables[NodeRow.__tablename__]


@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
@pytest.mark.parametrize("rows", [1, 20])
def test_a_table_that_is_locked_is_told_as_sqlalchemy_tells_it(file_engine, rows):
    row = {column.name: column.type.python_type() for column in NODE.columns}
    with Session(file_engine) as other, other.begin():
        other.execute(text(f"LOCK TABLE {NODE.name} IN ACCESS EXCLUSIVE MODE"))
        with Session(file_engine) as session, session.begin():
            session.execute(text("SET LOCAL lock_timeout = 20"))
            with pytest.raises(OperationalError, match="lock timeout"):
                insert_rows(session, NODE, [row] * rows)
            session.rollback()
