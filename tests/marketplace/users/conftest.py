"""The marketplace of these tests hashes passwords with little memory, for the time's sake."""

import pytest

from marketplace.users.passwords import Passwords
from tests.marketplace.world import World


@pytest.fixture
async def world(home, database_url):
    async with World(home, database_url=database_url) as running:
        object.__setattr__(running.market, "passwords", Passwords(memory_kib=1024))
        yield running
