"""A log that was there before tiles has its full tiles after the upgrade."""

import pytest
from sqlalchemy import text

from ledger.database import open_database
from ledger.tree import Frontier, leaf_hash
from migrations.run import downgrade, upgrade
from tests import postgres
from tests.postgres import both_engines

pytestmark = both_engines

BEFORE, AFTER = "0004_ledger", "0005_log"


def to_before(engine):
    upgrade(engine, BEFORE)


@pytest.fixture
def engine(engine_name, tmp_path):
    if engine_name == "sqlite":
        engine = open_database(f"sqlite:///{tmp_path / 'log.db'}")
        to_before(engine)
        yield engine
        engine.dispose()
        return
    url = postgres.fresh("log", to_before)
    engine = open_database(url)
    yield engine
    engine.dispose()
    postgres.drop(url)


def test_full_tiles_are_made_from_what_is_there(engine):
    frontier, hashes, nodes = Frontier(), [], []
    for index in range(600):
        hashes.append(leaf_hash(index.to_bytes(4, "big")))
        nodes += [node for node in frontier.append(hashes[-1]) if node[0] % 8 == 0]
    with engine.begin() as connection:
        leaf = "INSERT INTO ledger_leaf (leaf_index, kind, payload, hash) VALUES (:i, 'x', :p, :h)"
        rows = [{"i": i, "p": i.to_bytes(4, "big"), "h": h} for i, h in enumerate(hashes)]
        connection.execute(text(leaf), rows)
        node = "INSERT INTO ledger_node (level, node_index, hash) VALUES (:l, :i, :h)"
        connection.execute(text(node), [{"l": lv, "i": i, "h": h} for lv, i, h in nodes])
    upgrade(engine, AFTER)
    with engine.connect() as connection:
        query = text("SELECT level, tile_index, hashes FROM ledger_tile ORDER BY 1, 2")
        tiles = [(level, index, bytes(data)) for level, index, data in connection.execute(query)]
    assert tiles == [(0, 0, b"".join(hashes[:256])), (0, 1, b"".join(hashes[256:512]))]
    downgrade(engine, BEFORE)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM ledger_leaf")).scalar_one() == 600
