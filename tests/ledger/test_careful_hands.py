"""Who changes a value and writes its digest anew is found by what else must agree."""

import pytest
from sqlalchemy import select, update

from ledger import integrity
from ledger.database import metadata
from ledger.row_digest import receipt_digest, transfer_digest
from tests.ledger.test_integrity import book
from tests.ledger.world import MARKET, id_of, only_sqlite

__all__ = ["book"]

pytestmark = only_sqlite


@pytest.mark.parametrize(
    ("table", "where", "values", "named"),
    [
        ("transfer", {"state": "post"}, {"pending_id": b"\1" * 16}, "pending_id"),
        ("transfer", {"state": "void"}, {"pending_id": None}, "pending_id"),
        ("transfer", {"code": "post_hold"}, {"id": b"\1" * 16}, "id"),
        ("receipt", {"leaf_index": 0}, {"lease_id": id_of("c")}, "lease_id"),
        ("receipt", {"leaf_index": 0}, {"sequence": 9}, "sequence"),
        ("receipt", {"leaf_index": 0}, {"amount_nanos": 1}, "amount_nanos"),
    ],
)
def test_a_digest_that_is_right_hides_nothing(book, table, where, values, named):
    rows = metadata.tables[f"ledger_{table}"]
    digest = transfer_digest if table == "transfer" else receipt_digest
    chosen = [rows.c[name] == value for name, value in where.items()]
    row = dict(book.execute(select(rows).where(*chosen)).mappings().first()) | values
    book.execute(update(rows).where(*chosen).values(**values, digest=digest(row)))
    said = [violation.detail for violation in integrity.check(book, MARKET.peer_id)]
    assert any(line.endswith(f" contradicts its {named}") for line in said), said
