"""A market for payouts, on either engine."""

import pytest

from tests.marketplace.payouts.world import PayoutWorld


@pytest.fixture
def pay(home, database_url):
    world = PayoutWorld(home, database_url)
    yield world
    assert world.violations() == []
    world.close()
