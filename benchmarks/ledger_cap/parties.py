"""Providers and gateways of the cap benchmark: real as far as money goes, and without a model."""

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from benchmarks.ledger_cap.case import MODEL, PROMPT, RATES, Case
from node.errors import PaymentRequired
from node.head.payer import Payer
from node.market_client import MarketClient
from node.router.base import INSTALMENT_TOKENS, RoutePlan, RouteRequest, smaller_instalments
from node.router.market import MarketRouter
from protocol.envelope import seal
from protocol.frame import Meter
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.money import Nanos, work_bound
from protocol.offer import Offer
from protocol.receipt import cosign
from protocol.route import Span
from protocol.tensor import WireDtype

__all__ = ["REQUEST_TIMEOUT_S", "Gateway", "Outcome", "Provider"]

CONNECTIONS = 24
"""Of each gateway to its marketplace process."""
REQUEST_TIMEOUT_S = 300.0
"""A thousand at once on two cores: what is asked here is how many, not how fast."""


class Provider:
    """Sells one span; hands its receipts in as a node does, a few at a time."""

    def __init__(self, span: Span, url: str) -> None:
        self.span = span
        # the same in every case, for the offers of the one before still stand
        self.key = KeyPair(bytes([span.start]) * 32)
        self.outcomes: Counter[str] = Counter()
        self._client = MarketClient(url, self.key, timeout_s=REQUEST_TIMEOUT_S)
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
        transport = httpx.AsyncHTTPTransport(limits=limits)
        self.client = MarketClient(url, self.key, timeout_s=REQUEST_TIMEOUT_S, transport=transport)
        self._router = MarketRouter(self.client, market, self.key.peer_id)
        self._providers = {provider.key.peer_id: provider for provider in providers}
        self._outcome = outcome

    async def ask(self, case: Case, api_key: str, counted: int) -> None:
        """One request from its quote to its close."""
        funded = INSTALMENT_TOKENS if case.asked is None else None
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
            for tokens in (INSTALMENT_TOKENS, *smaller_instalments(INSTALMENT_TOKENS)):
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

    async def begin_s(self, case: Case, api_key: str) -> float:
        """How long the first half of a request takes: quote, hold and leases; nothing is used."""
        request = RouteRequest(
            MODEL, PROMPT, case.max_tokens, WireDtype.BF16, sealed=True, api_key=api_key
        )
        began_s = time.monotonic()
        plan = await self._router.plan(request)
        took_s = time.monotonic() - began_s
        await self._router.session_over(plan.session_id, api_key)
        return took_s

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
