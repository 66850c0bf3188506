"""Fixtures: a running marketplace on a fresh SQLite file, or on PostgreSQL."""

import functools
import shutil
import tempfile
from pathlib import Path

import pytest

from ledger.database import open_database
from marketplace.config import DATABASE_FILE
from migrations.run import upgrade
from tests import postgres
from tests.marketplace.world import World, manifest, three_providers

MEMORY = Path("/dev/shm")
"""Where files need no disk: the database syncs at every commit, which is most of a test's time."""

ON_BOTH = {"test_flow", "test_leases", "test_payments", "test_receipts"}
"""What moves money runs on PostgreSQL too; newer files say so themselves, by `both_engines`."""


def pytest_generate_tests(metafunc):
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH:
        postgres.on_both(metafunc)


@pytest.fixture
def home():
    """An empty directory for one marketplace."""
    directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield directory / "home"
    shutil.rmtree(directory)


@functools.cache
def sqlite_template() -> bytes:
    """A file with every table: copying it takes a hundredth of what all the versions take."""
    directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    engine = open_database(f"sqlite:///{directory / DATABASE_FILE}")
    upgrade(engine)
    engine.dispose()
    content = (directory / DATABASE_FILE).read_bytes()
    shutil.rmtree(directory)
    return content


@pytest.fixture
def database_url(engine_name, home):
    """Of an empty database with every table; "" stands for the marketplace's own SQLite file."""
    if engine_name == "sqlite":
        home.mkdir(mode=0o700)
        (home / DATABASE_FILE).write_bytes(sqlite_template())
        yield ""
        return
    url = postgres.fresh("market", upgrade)
    yield url
    postgres.drop(url)


@pytest.fixture
async def world(home, database_url):
    async with World(home, database_url=database_url) as running:
        yield running


@pytest.fixture
async def providers(world):
    """Three with room for long answers, which cost cents as the least top-up does."""
    model = manifest(context_tokens=10**6)
    await world.register(model)
    providers = three_providers()
    for provider in providers:
        provider.changes = {"kv_tokens": 10**6}
    await world.publish(model, *providers)
    return providers
