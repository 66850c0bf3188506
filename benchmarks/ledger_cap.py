"""A balance for 137 requests, and 1 000 that come at once: how many are served, and what is spent.

    python -m benchmarks.ledger_cap [--engine sqlite|postgresql] [--processes 4] [--case fixed]

Real `piecework-market` processes over one database with fsync on, real HTTP, and the gateway's own
router with its line for money in flight. Heads and providers are simulated as far as the model
goes: receipts are signed, countersigned and handed in. The cases:

    fixed        every answer uses all that was held for it
    omitted      max_tokens left out: instalments, each answer extended once or more
    short        answers a quarter as long as what was held for them
    wrong-count  prompts counted too long by the client; and, from a second account, too short
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ledger.database import Session, open_database
from ledger.invariants import check
from marketplace.pricing import WorkPlan, price_of
from node import market_client
from node.errors import PaymentRequired
from node.head.payer import Payer
from node.market_client import MarketClient
from node.router.base import INSTALMENTS_TOKENS, RoutePlan, RouteRequest
from node.router.market import MarketRouter
from protocol.envelope import seal
from protocol.frame import Meter
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.money import Nanos, Rates, work_bound
from protocol.offer import Offer
from protocol.receipt import cosign
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.marketplace.world import manifest
from tests.postgres import Server

MODEL = manifest(context_tokens=4096)
SPANS = (Span(0, 4), Span(4, 8), Span(8, 12))
RATES = Rates(2_000_000_000, 6_000_000_000, 1_000_000)
"""Dear, so that the least top-up is not above what a few requests cost."""
FEE_BASIS_POINTS = 500
PROMPT = 100
CONNECTIONS = 24
"""Of each gateway to its marketplace process."""
UNDER_COUNTED = 40
START_TIMEOUT_S = 120.0
SETTLE_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Case:
    """What the requests say and what they really come to, in tokens."""

    asked: int | None
    """max_tokens, held whole; None: left out."""
    output: int
    over_counted: tuple[int, int] = (0, 0)
    """The prompt is counted too long by so many, from and to."""

    @property
    def max_tokens(self) -> int:
        return 1024 if self.asked is None else self.asked

    def balance(self, covers: int) -> Nanos:
        """What covers so many requests; the last of them must still find what it has to hold."""
        used = price(PROMPT, self.output)
        if self.asked is None:
            return covers * used
        return (covers - 1) * used + price(PROMPT + self.over_counted[1], self.asked)


CASES = {
    "fixed": Case(50, 50),
    "omitted": Case(None, 300),
    "short": Case(200, 50),
    "wrong-count": Case(50, 50, (10, 60)),
}


def price(prompt: int, output: int) -> Nanos:
    plan = WorkPlan(MODEL.layers, MODEL.hidden_size, prompt, output, WireDtype.BF16)
    return price_of([(span, RATES) for span in SPANS], plan, FEE_BASIS_POINTS)


class Provider:
    """Sells one span; hands its receipts in as a node does, a few at a time."""

    def __init__(self, span: Span, url: str) -> None:
        self.span = span
        # the same in every case, for the offers of the one before still stand
        self.key = KeyPair(bytes([span.start]) * 32)
        self.outcomes: Counter[str] = Counter()
        self._client = MarketClient(url, self.key)
        self._waiting: list[tuple[bytes, asyncio.Future[str]]] = []
        self._task = asyncio.create_task(self._hand_in())

    async def offer(self) -> None:
        now_s, sequence = int(time.time()), time.time_ns()
        offer = Offer(
            provider=self.key.peer_id, sequence=sequence,
            addresses=("/ip4/192.0.2.1/udp/1/quic-v1",),
            model=MODEL.name, manifest_hash=MODEL.manifest_hash, span=self.span, backend="none",
            compute_dtype="fp32", rates=RATES, sessions_max=1000, kv_tokens=10_000_000,
            issued_at_s=now_s, expires_at_s=now_s + 290,
        )  # fmt: skip
        await self._client.offer(seal(offer, self.key))

    async def take(self, receipt: bytes) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((cosign(receipt, self.key).encode(), future))
        return await future

    async def _hand_in(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            batch, self._waiting = self._waiting[:200], self._waiting[200:]
            if not batch:
                continue
            try:
                signed = await self._client.hand_in([receipt for receipt, _ in batch])
            except Exception as error:  # told to who waits; the next batch may do better
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), result in zip(batch, signed.results, strict=True):
                self.outcomes[result.status] += 1
                future.set_result(result.status)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._client.close()


class TimedClient(MarketClient):
    """Notes how long holding money took, refused or not."""

    holds_s: list[float] = []  # noqa: RUF012 - one list for all gateways

    async def lease(self, body, api_key):
        with self._timed():
            return await super().lease(body, api_key)

    async def extensions(self, session_id, body, api_key):
        with self._timed():
            return await super().extensions(session_id, body, api_key)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.holds_s.append(time.perf_counter() - began)


@dataclass
class Outcome:
    """What became of all requests of one case."""

    ended: Counter[str] = field(default_factory=Counter)
    extended: int = 0
    charged: list[Nanos] = field(default_factory=list)


class Gateway:
    """A head that holds, extends, signs and closes as the real one does, and runs no model."""

    def __init__(self, url: str, market, providers: Sequence[Provider], outcome: Outcome) -> None:
        self.key = KeyPair.generate()
        limits = httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=1.0)
        self.client = TimedClient(url, self.key, transport=httpx.AsyncHTTPTransport(limits=limits))
        self._router = MarketRouter(self.client, market, self.key.peer_id)
        self._providers = {provider.key.peer_id: provider for provider in providers}
        self._outcome = outcome

    async def ask(self, case: Case, api_key: str, counted: int) -> None:
        """One request from its quote to its close."""
        funded = INSTALMENTS_TOKENS[0] if case.asked is None else None
        request = RouteRequest(
            MODEL, counted, case.max_tokens, WireDtype.BF16, sealed=True, api_key=api_key,
            funded_tokens=funded,
        )  # fmt: skip
        try:
            plan = await self._router.plan(request)
        except PaymentRequired as error:
            self._outcome.ended[error.code] += 1
            return
        prompt = min(counted, PROMPT)
        output = case.output if counted >= PROMPT else 0
        if funded is not None:
            plan, output = await self._extend(plan, request, output)
        await self._settle(plan, prompt, output)
        await self._router.session_over(plan.session_id, api_key)
        served = counted >= PROMPT and output == case.output
        self._outcome.ended["served" if served else "cut"] += 1

    async def _extend(self, plan: RoutePlan, request: RouteRequest, output: int):
        """Pay for as much of the answer as it has, as `node/head/instalments.py` does."""
        while (funded := plan.funded_rows - request.prompt_tokens) < output:
            for tokens in INSTALMENTS_TOKENS:
                try:
                    plan = await self._router.extend(
                        plan, request, drafted_tokens=0,
                        funded_tokens=min(funded + tokens, request.max_tokens),
                    )  # fmt: skip
                except PaymentRequired:
                    continue
                self._outcome.extended += 1
                break
            else:
                return plan, funded
            await asyncio.sleep(0)
        return plan, output

    async def _settle(self, plan: RoutePlan, prompt: int, output: int) -> None:
        payer = Payer(plan.payer_key, plan.leases)
        takes = []
        for index, lease in enumerate(plan.leases):
            receipt = payer.sign(index, meter_of(plan, lease, prompt, output))
            takes.append(self._providers[lease.provider].take(receipt))
        statuses = await asyncio.gather(*takes)
        assert set(statuses) == {"accepted"}, statuses

    async def overstate(self, case: Case, api_key: str, counted: int) -> str:
        """Head and hop together claim the whole prompt, of which a part was leased."""
        request = RouteRequest(
            MODEL, counted, case.max_tokens, WireDtype.BF16, sealed=True, api_key=api_key
        )
        plan = await self._router.plan(request)
        roomy = [
            seal_free(lease) for lease in plan.leases
        ]  # what the payer believes, so that it signs
        payer = Payer(plan.payer_key, roomy)
        meter = meter_of(plan, plan.leases[0], PROMPT, case.output)
        status = await self._providers[plan.leases[0].provider].take(payer.sign(0, meter))
        await self._settle_rest(plan, counted)
        await self._router.session_over(plan.session_id, api_key)
        return status

    async def _settle_rest(self, plan: RoutePlan, counted: int) -> None:
        await self._settle(plan, counted, 0)


def seal_free(lease: Lease) -> Lease:
    """The lease as a cheating head would like it: with room for anything."""
    import dataclasses

    whole = work_bound(
        layers=len(lease.span), prompt_tokens=10**6, output_tokens=10**6, bytes_per_token=128
    )
    return dataclasses.replace(lease, work_max=whole, amount_nanos_max=2**60)


def meter_of(plan: RoutePlan, lease: Lease, prompt: int, output: int) -> Meter:
    work = work_bound(
        layers=len(lease.span), prompt_tokens=prompt, output_tokens=output,
        bytes_per_token=lease.wire_dtype.row_bytes(lease.hidden_size),
    )  # fmt: skip
    ends = [bytes([lease.hop_index + n]) * 32 for n in (0, 1)]
    return Meter(plan.session_id, 0, 1, prompt + output, work, *ends, final=True)


class Market:
    """`count` processes over one database; the first does the jobs."""

    def __init__(self, engine: str, count: int) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="cap"))
        self._server = None
        url = ""
        if engine == "postgresql":
            self._server = Server(Path(tempfile.mkdtemp(prefix="pg", dir="/tmp")))
            self._server.start()
            url = self._server.url
        self.database_url = url or f"sqlite:///{self._home / 'marketplace.sqlite'}"
        self._env = os.environ | {
            "PIECEWORK_MARKET_HOME": str(self._home),
            "PIECEWORK_MARKET_DATABASE_URL": url,
            "PIECEWORK_MARKET_SETTLEMENT_WINDOW_S": "1",
        }
        self._processes: list[subprocess.Popen[str]] = []
        self.urls = [self._start(has_jobs=index == 0) for index in range(count)]

    def _start(self, *, has_jobs: bool) -> str:
        code = "from marketplace.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", "--port", "0"]
        log = self._home / f"log{len(self._processes)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command + ([] if has_jobs else ["--no-jobs"]), env=self._env, stderr=output
            )
        self._processes.append(process)
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            if found := re.search(r"at (http://\S+)", log.read_text()):
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{found[1]}/healthz").status_code == 200:
                        return found[1]
            time.sleep(0.1)
        raise RuntimeError(f"the marketplace does not start: {log.read_text()[-2000:]}")

    def close(self) -> None:
        for number, process in enumerate(self._processes):
            if process.poll() is not None:  # it should not have ended by itself
                log = (self._home / f"log{number}").read_text()
                print(f"process {number} ended with {process.returncode}: {log[-3000:]}")
            process.terminate()
        for process in self._processes:
            process.wait(30)
        if self._server is not None:
            self._server.remove()
        shutil.rmtree(self._home)


async def account(client: MarketClient, nanos: Nanos) -> str:
    key = (await client.create_account("cap"))["api_key"]
    topup_id = secrets.token_hex(16)
    await client.top_up(topup_id, nanos, key)
    await client.complete_test_checkout(topup_id)
    return key


async def settled(client: MarketClient, key: str) -> dict:
    async with asyncio.timeout(SETTLE_TIMEOUT_S):
        while (balance := (await client.account(key))["balance"])["held_nanos"]:
            await asyncio.sleep(0.2)
    return balance


async def run_case(market: Market, name: str, requests: int, covers: int) -> bool:
    case, outcome, dice = CASES[name], Outcome(), random.Random(1)
    TimedClient.holds_s.clear()
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(MarketClient(market.urls[0], KeyPair.generate()))
        terms = await first.terms()
        await first.register_manifest(MODEL)
        providers = [Provider(s, u) for s, u in zip(SPANS, market.urls * 3, strict=False)]
        gateways = [Gateway(url, terms.peer_id, providers, outcome) for url in market.urls]
        for one in (*providers, *(gateway.client for gateway in gateways)):
            stack.push_async_callback(one.close)
        await asyncio.gather(*(provider.offer() for provider in providers))
        topped_up = case.balance(covers)
        key = await account(first, topped_up)
        began = time.monotonic()
        await asyncio.gather(
            *(
                gateways[n % len(gateways)].ask(
                    case, key, PROMPT + dice.randint(*case.over_counted)
                )
                for n in range(requests)
            )
        )
        took_s = time.monotonic() - began
        balance = await settled(first, key)
        good = report(name, outcome, balance, topped_up, covers, took_s)
        if name == "wrong-count":
            good &= await under_counted(first, gateways, case, outcome)
    return good


def report(name, outcome, balance, topped_up, covers, took_s) -> bool:
    ended, holds = outcome.ended, sorted(TimedClient.holds_s)
    posted = balance["posted_nanos"]
    spent = ended["served"] * price(PROMPT, CASES[name].output)
    print(
        f"{name:12} served {ended['served']} of {covers} covered, cut {ended['cut']}, refused "
        f"{sum(ended.values()) - ended['served'] - ended['cut']} {dict(ended)}, "
        f"extensions {outcome.extended}"
    )
    print(
        f"{'':12} topped up {topped_up}, final balance {posted}, overspend {max(-posted, 0)}, "
        f"unaccounted {topped_up - spent - posted}; {took_s:.1f} s; hold p50 "
        f"{statistics.median(holds) * 1e3:.1f} ms p99 {holds[int(len(holds) * 0.99)] * 1e3:.1f} ms "
        f"over {len(holds)}"
    )
    return ended["served"] == covers and posted >= 0 and ended["cut"] == 0


async def under_counted(first, gateways, case: Case, outcome: Outcome) -> bool:
    """A client that counts 80 of 100: stopped at the lease, charged for what was carried."""
    counted = PROMPT - 20
    topped_up = UNDER_COUNTED * price(counted, case.max_tokens)
    key = await account(first, topped_up)
    outcome.ended.clear()
    honest = [gateways[0].ask(case, key, counted) for _ in range(UNDER_COUNTED // 2)]
    await asyncio.gather(*honest)
    lies = [gateways[-1].overstate(case, key, counted) for _ in range(UNDER_COUNTED // 2)]
    statuses = Counter(await asyncio.gather(*lies))
    balance = await settled(first, key)
    charged = topped_up - balance["posted_nanos"]
    print(
        f"{'':12} counted too short: stopped {outcome.ended['cut']}, receipts beyond the lease "
        f"{dict(statuses)}, charged {charged} = {UNDER_COUNTED} x {price(counted, 0)}"
    )
    return charged == UNDER_COUNTED * price(counted, 0) and set(statuses) == {"rejected"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--case", choices=(*CASES, "all"), default="all")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--covers", type=int, default=137)
    options = parser.parse_args()
    # a thousand at once on two cores: what is asked here is how many, not how fast
    market_client.REQUEST_TIMEOUT_S = REQUEST_TIMEOUT_S
    names = list(CASES) if options.case == "all" else [options.case]
    market = Market(options.engine, options.processes)
    print(f"{options.engine}, {options.processes} processes, {options.requests} at once")
    try:
        good = [
            asyncio.run(run_case(market, name, options.requests, options.covers)) for name in names
        ]
        engine = open_database(market.database_url)
        with Session(engine) as session:
            violations = check(session)
        engine.dispose()
        print("books:", violations or "in order")
    finally:
        market.close()
    sys.exit(0 if all(good) and not violations else 1)


if __name__ == "__main__":
    main()
