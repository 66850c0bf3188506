"""Fixtures: a running marketplace on a fresh SQLite file."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import text

from ledger.database import open_database
from tests.marketplace.world import World

POSTGRESQL_URL = os.environ.get("PIECEWORK_TEST_POSTGRESQL_URL", "")
"""With it the same tests run on PostgreSQL; the schemas they make are left there."""
MEMORY = Path("/dev/shm")
"""Where files need no disk: the database syncs at every commit, which is most of a test's time."""


@pytest.fixture
def home():
    """An empty directory for one marketplace."""
    directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield directory / "home"
    shutil.rmtree(directory)


@pytest.fixture
async def world(home):
    async with World(home, database_url=new_database()) as running:
        yield running


def new_database() -> str:
    """A fresh schema of POSTGRESQL_URL; without it the marketplace's own SQLite file."""
    if not POSTGRESQL_URL:
        return ""
    schema = f"test_{secrets.token_hex(8)}"
    server = open_database(POSTGRESQL_URL)
    with server.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    server.dispose()
    return f"{POSTGRESQL_URL}?options=-csearch_path%3D{schema}"
