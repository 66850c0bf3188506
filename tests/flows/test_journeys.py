"""The two journeys of docs/guides are programs: they run against real servers, on both engines."""

import asyncio
import socket
import threading
import time

import pytest
import uvicorn

from ledger.invariants import check
from marketplace.app import create_app
from marketplace.config import MarketConfig
from migrations.run import upgrade
from node.cli.demo.pool import DemoOptions, start_pool
from node.cli.demo.processes import Children
from tests import postgres
from tests.flows.journeys import closing, run_buyers_page, run_page
from tests.marketplace.world import HandClock

DAY_S = 86_400
START_TIMEOUT_S = 30


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request):
    """Of an empty database; "" stands for the marketplace's own SQLite file."""
    if request.param == "sqlite":
        yield ""
        return
    url = postgres.fresh("journey", upgrade)
    yield url
    postgres.drop(url)


class Served:
    """A marketplace over real HTTP whose clock is moved by hand."""

    def __init__(self, home, database_url) -> None:
        self.clock = HandClock()
        config = MarketConfig(home=home, database_url=database_url)
        self.app = create_app(config, clock=self.clock, own_rounds=False)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_config=None))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self):
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._server.started and self._thread.is_alive():
            assert time.monotonic() < deadline, "the marketplace does not start"
            time.sleep(0.02)
        return self

    def __exit__(self, *error):
        self._server.should_exit = True
        self._thread.join(START_TIMEOUT_S)

    def run_jobs(self) -> None:
        self.app.state.worker.round()

    def pass_days(self, days: int) -> None:
        self.clock.now += days * DAY_S
        self.run_jobs()


def test_a_provider_signs_up_joins_earns_and_is_paid(tmp_path, database_url):
    with Served(tmp_path / "home", database_url) as market:
        with closing({"MARKET": market.url, "now_s": market.clock.now_s}) as names:
            run_page(
                "journey-provider.md",
                names,
                tmp_path,
                run_jobs=market.run_jobs,
                pass_days=market.pass_days,
            )
        with market.app.state.market.database.reading() as session:
            assert check(session) == []


async def test_a_buyer_tops_up_asks_and_verifies_a_receipt_offline(tmp_path, monkeypatch):
    """On PostgreSQL; `test_pool.py` has the same page on SQLite, with the pool that it starts."""
    url = postgres.fresh("journey", upgrade)
    monkeypatch.setenv("PIECEWORK_MARKET_DATABASE_URL", url)
    children = Children(tmp_path, lambda _: None)
    options = DemoOptions(nodes=3, model="piecework/tiny", prompt="", engines="auto", exact=False)
    try:
        pool = await start_pool(options, tmp_path, children, lambda _: None)
        monkeypatch.chdir(tmp_path)
        await asyncio.to_thread(run_buyers_page, pool, tmp_path)
    finally:
        codes = await children.stop()
        postgres.drop(url)
    assert set(codes.values()) == {0}, codes
