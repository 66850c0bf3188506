"""One case from its top-up to its last settlement, and what is said of it."""

import asyncio
import contextlib
import random
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Sequence

from benchmarks.ledger_cap.case import CASES, MODEL, PROMPT, SPANS, UNDER_COUNTED, Case, price
from benchmarks.ledger_cap.market import Market
from benchmarks.ledger_cap.parties import REQUEST_TIMEOUT_S, Gateway, Outcome, Provider
from node.market_client import MarketClient
from protocol.identity import KeyPair
from protocol.money import Nanos

__all__ = ["run_case"]

SETTLE_TIMEOUT_S = 120.0
BYSTANDER_EVERY_S = 0.5
BYSTANDER_REQUESTS_MAX = 1000
"""His balance covers them all."""


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
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(
            MarketClient(market.urls[0], KeyPair.generate(), timeout_s=REQUEST_TIMEOUT_S)
        )
        terms = await first.terms()
        await first.register_manifest(MODEL)
        providers = [Provider(s, u) for s, u in zip(SPANS, market.urls * 3, strict=False)]
        gateways = [Gateway(url, terms.peer_id, providers, outcome) for url in market.urls]
        for one in (*providers, *(gateway.client for gateway in gateways)):
            stack.push_async_callback(one.close)
        await asyncio.gather(*(provider.offer() for provider in providers))
        topped_up = case.balance(covers)
        key = await account(first, topped_up)
        rich = await account(first, BYSTANDER_REQUESTS_MAX * price(PROMPT, case.max_tokens))
        over = asyncio.Event()
        bystander = asyncio.create_task(stand_by(gateways, case, rich, over))
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
        over.set()
        tell_bystander(await bystander)
        balance = await settled(first, key)
        good = report(name, outcome, balance, topped_up, covers, took_s)
        tell_holds(market)
        if name == "wrong-count":
            good &= await under_counted(first, gateways, case, outcome)
    return good


async def stand_by(
    gateways: Sequence[Gateway], case: Case, key: str, over: asyncio.Event
) -> list[float]:
    """Another buyer at the same gateways: how long each of his requests took to begin."""
    took_s: list[float] = []
    while not over.is_set() and len(took_s) < BYSTANDER_REQUESTS_MAX:
        took_s.append(await gateways[len(took_s) % len(gateways)].begin_s(case, key))
        await asyncio.sleep(BYSTANDER_EVERY_S)
    return took_s


def tell_bystander(took_s: list[float]) -> None:
    median_ms, longest_ms = statistics.median(took_s) * 1e3, max(took_s) * 1e3
    print(
        f"{'':12} another buyer meanwhile: quote and hold p50 {median_ms:.0f} ms, longest "
        f"{longest_ms:.0f} ms over {len(took_s)}"
    )


def report(name, outcome, balance, topped_up, covers, took_s) -> bool:
    ended = outcome.ended
    posted = balance["posted_nanos"]
    spent = ended["served"] * price(PROMPT, CASES[name].output)
    print(
        f"{name:12} served {ended['served']} of {covers} covered, cut {ended['cut']}, refused "
        f"{sum(ended.values()) - ended['served'] - ended['cut']} {dict(ended)}, "
        f"extensions {outcome.extended}"
    )
    print(
        f"{'':12} topped up {topped_up}, final balance {posted}, overspend {max(-posted, 0)}, "
        f"{'spent on those cut' if ended['cut'] else 'unaccounted'} {topped_up - spent - posted}; "
        f"{took_s:.1f} s"
    )
    return ended["served"] == covers and posted >= 0 and ended["cut"] == 0


def tell_holds(market: Market) -> None:
    """How long holding money took, measured in the marketplace's processes."""
    for kind, seconds in sorted(market.hold_times_s().items()):
        p99_s = seconds[int(len(seconds) * 0.99)]
        print(
            f"{'':12} hold ({kind}) p50 {statistics.median(seconds) * 1e3:.1f} ms "
            f"p99 {p99_s * 1e3:.1f} ms over {len(seconds)}"
        )


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
