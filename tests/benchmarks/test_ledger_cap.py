"""A balance is never passed, whoever asks at once: real processes over each database.

A thousand requests and every case are the benchmark's: `python -m benchmarks.ledger_cap`.
"""

import asyncio

import pytest

from benchmarks.ledger_cap.campaign import run_case
from benchmarks.ledger_cap.market import Market
from ledger.database import Session, open_database
from ledger.invariants import check

REQUESTS, COVERED = 60, 13


@pytest.fixture(params=[("sqlite", 1), ("postgresql", 2)], ids=lambda param: param[0])
def market(request):
    running = Market(*request.param)
    yield running
    running.close()


def test_sixty_at_once_on_a_balance_for_thirteen(market):
    """Thirteen are served, the others are told no, and not a nano more is spent."""
    assert asyncio.run(run_case(market, "fixed", REQUESTS, COVERED))
    engine = open_database(market.database_url)
    with Session(engine) as session:
        assert check(session) == []
    engine.dispose()
