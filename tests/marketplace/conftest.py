"""Fixtures: a running marketplace on a fresh SQLite file."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.marketplace.world import World

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
    async with World(home) as running:
        yield running
