"""What wraps every request, and the worker's rounds."""

import asyncio
import logging
import re

import httpx
import pytest

from ledger.errors import ForkDetected
from marketplace.app import create_app
from marketplace.asgi import BODY_BYTES_MAX
from marketplace.config import MarketConfig
from marketplace.worker import Job, Worker
from protocol.limits import MANIFEST_BYTES_MAX
from tests.marketplace.world import error_of


async def test_market_page(world):
    answer = await world.http.get("/v1/market")
    assert answer.json() == {
        "network": "local",
        "peer_id": str(world.market.key.peer_id),
        "fee_basis_points": 500,
        "window_tokens": 64,
        "credit_windows": 8,
        "settlement_window_s": 5,
        "processor": "test",
        "relays": [],
    }
    assert (await world.http.get("/healthz")).json() == {"status": "ok"}


async def test_openapi_names_every_path(world):
    paths = (await world.http.get("/openapi.json")).json()["paths"]
    assert {"/v1/quotes", "/v1/leases", "/v1/receipts", "/v1/ledger/proof"} <= set(paths)


async def test_unknown_paths_and_methods_have_our_shape(world):
    assert error_of(await world.http.get("/nothing")) == (404, "not_found")
    assert error_of(await world.http.put("/v1/market")) == (405, "method_not_allowed")


class TestRequestId:
    async def test_a_good_one_is_kept_and_a_bad_one_replaced(self, world):
        kept = await world.http.get("/v1/market", headers={"x-request-id": "abc-1"})
        assert kept.headers["x-request-id"] == "abc-1"
        for bad in ("", "a b", "x" * 65, "<script>"):
            answer = await world.http.get("/v1/market", headers={"x-request-id": bad})
            assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])

    async def test_our_bug_is_500_without_a_traceback(self, world, caplog):
        @world.app.get("/bug")
        def bug():
            raise RuntimeError("secret words")

        with caplog.at_level(logging.ERROR, logger="marketplace.asgi"):
            answer = await world.http.get("/bug", headers={"x-request-id": "abc"})
        assert error_of(answer) == (500, "internal")
        assert "secret" not in answer.text
        assert answer.headers["x-request-id"] == "abc"
        assert "abc" in caplog.text


class TestBodyLimit:
    async def test_too_large_a_body_is_413(self, world):
        answer = await world.http.post("/v1/accounts", content=b"x" * (BODY_BYTES_MAX + 1))
        assert error_of(answer) == (413, "body_too_large")

    async def test_a_body_without_length_is_counted(self, world):
        async def parts():
            for _ in range(5):
                yield b"x" * (BODY_BYTES_MAX // 4)

        answer = await world.http.post("/v1/accounts", content=parts())
        assert error_of(answer) == (413, "body_too_large")

    async def test_a_manifest_may_be_larger(self, world):
        large = b"x" * (BODY_BYTES_MAX + 1)
        path = "/v1/manifests/" + "0" * 64
        assert error_of(await world.http.put(path, content=large)) == (401, "request_unsigned")
        headers = {"content-length": str(MANIFEST_BYTES_MAX + 1)}
        answer = await world.http.put(path, content=b"x", headers=headers)
        assert error_of(answer) == (413, "body_too_large")


class TestLedgerPages:
    @pytest.mark.parametrize(
        "path",
        [
            "proof?index=0&size=0",
            "proof?index=0&size=1",
            "proof?index=-1&size=1",
            "proof?index=x&size=1",
            "proof",
            "consistency?first=1&second=0",
            "consistency?first=0&second=1",
            "leaves?start=-1",
            "leaves?count=1001",
            "leaves?count=0",
            f"leaves?start={2**63}",
        ],
    )
    async def test_nonsense_is_400(self, world, path):
        assert error_of(await world.http.get(f"/v1/ledger/{path}")) == (400, "malformed")

    async def test_an_empty_log_is_signed_too(self, world):
        checkpoint = await world.http.get("/v1/ledger/checkpoint")
        assert checkpoint.headers["content-type"].startswith("text/plain")
        assert checkpoint.text.startswith("piecework/local\n0\n")
        leaves = (await world.http.get("/v1/ledger/leaves")).json()
        assert leaves == {"leaves": [], "next": None}
        grown = (await world.http.get("/v1/ledger/consistency?first=0&second=0")).json()
        assert grown["hashes"] == []

    async def test_providers_come_in_pages(self, world):
        totals = (await world.http.get("/v1/ledger/totals?after=zzz")).json()
        assert (totals["providers"], totals["next_provider"]) == ({}, None)


class TestWorker:
    async def test_rounds_come_by_themselves(self, tmp_path):
        config = MarketConfig(home=tmp_path, settlement_window_s=1)
        app = create_app(config)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://m") as http:
                made = (await http.post("/v1/accounts", json={"name": "x"})).json()
                headers = {"authorization": f"Bearer {made['api_key']}"}
                for _ in range(100):
                    (key,) = (await http.get("/v1/keys", headers=headers)).json()["data"]
                    if key["last_used_at_s"] is not None:
                        break
                    await asyncio.sleep(0.05)
        assert key["last_used_at_s"] is not None

    async def test_a_failed_turn_is_logged_and_the_next_one_comes(self, world, caplog):
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        calls = []

        def settle(_):
            calls.append(1)
            if len(calls) == 1:
                raise OSError("disk full")
            loop.call_soon_threadsafe(done.set)
            return 0

        job = Job("settle", lambda _: 0.01, settle)
        worker = Worker(world.market, [job], on_fork=lambda: pytest.fail("no fork"))
        task = asyncio.create_task(worker.run())
        await asyncio.wait_for(done.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "disk full" in caplog.text

    async def test_a_fork_of_the_log_stops_every_job(self, world):
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()

        def publish(_):
            raise ForkDetected("two roots")

        jobs = [Job("publish", lambda _: 0.01, publish), Job("settle", lambda _: 0.01, lambda _: 0)]
        worker = Worker(world.market, jobs, on_fork=lambda: loop.call_soon_threadsafe(stopped.set))
        task = asyncio.create_task(worker.run())
        await asyncio.wait_for(stopped.wait(), 10)
        await asyncio.wait_for(task, 10)
