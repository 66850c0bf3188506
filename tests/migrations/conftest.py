"""Fixtures: a database of the newest version."""

import pytest

from ledger.database import open_database
from migrations.run import upgrade
from tests import postgres


@pytest.fixture
def newest(engine_name, tmp_path):
    """With every table and no row."""
    on_sqlite = engine_name == "sqlite"
    url = f"sqlite:///{tmp_path / 'market.db'}" if on_sqlite else postgres.fresh("market", upgrade)
    engine = open_database(url)
    upgrade(engine)
    yield engine
    engine.dispose()
    if not on_sqlite:
        postgres.drop(url)
