"""A database with every table and nothing in it; afterwards its book is in order."""

import pytest

from ledger.invariants import check
from marketplace.db import Database


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    with database.reading() as session:
        assert check(session) == []
    database.close()
