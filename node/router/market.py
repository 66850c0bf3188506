"""The paid router: a quote, a hold, and one lease a hop. Two round trips, none after; one more for
each repair."""

import asyncio
import base64
import contextlib
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from node.errors import MarketRefused, MarketUnreachable, PaymentRequired
from node.market_client import MarketClient
from node.router.base import (
    Availability,
    RoutePlan,
    Router,
    RouteRequest,
    smaller_instalments,
)
from node.router.funds import FUNDS_IN_FLIGHT, FundsQueue
from node.router.granted import check_lease, hops_of
from protocol.envelope import open_envelope
from protocol.errors import NoRoute, PieceworkError, VerificationError
from protocol.identity import KeyPair, PeerId
from protocol.lease import ID_BYTES, Lease
from protocol.model import ModelManifest
from protocol.money import Nanos
from protocol.route import Route

__all__ = ["MarketRouter"]

EXTENSION_WAIT_S = 5.0
"""An answer that runs waits so long for money in flight; then it ends where it is."""
QUOTES_MAX = 5
"""Where a thousand requests come at once, one may wait longer than its quote lives."""
CLOSE_AGAIN_S = (1.0, 2.0, 4.0, 8.0)
"""Between attempts to tell the marketplace that a session is over, which is started again within
that time. It only frees the buyer's hold sooner: some ten minutes, which he may be waiting for."""
NO_CAPACITY = "no_capacity"
"""The marketplace's code where nobody serves a span; other refusals of status 503 say nothing of
routes, and may come behind a commit."""
REPLACE_ATTEMPTS = 2
"""A lost answer must not cost a repair: the same request again gives the same leases."""

logger = logging.getLogger(__name__)


class MarketRouter(Router):
    """Buys routes from one marketplace, whose key `market` is pinned. `head` is our PeerId."""

    def __init__(self, client: MarketClient, market: PeerId, head: PeerId) -> None:
        self._client = client
        self._market = market
        self._head = head
        self._funds = FundsQueue()

    async def plan(self, request: RouteRequest) -> RoutePlan:
        return await self._funds.buy(request.api_key, lambda: self._buy_affordable(request))

    async def _buy_affordable(self, request: RouteRequest) -> RoutePlan:
        """As much of it as the balance covers, at least the smallest instalment."""
        *more, least = _smaller(request)
        for wanted in more:
            try:
                return await self._buy_fresh(wanted)
            except PaymentRequired as error:
                # what is in flight comes back; drafts are not worth the wait
                if error.code == FUNDS_IN_FLIGHT and not wanted.drafted_tokens:
                    raise
        return await self._buy_fresh(least)

    async def _buy_fresh(self, request: RouteRequest) -> RoutePlan:
        """As `_buy`, once more where the quote has expired on its way to the till."""
        for _ in range(QUOTES_MAX - 1):
            try:
                return await self._buy(request)
            except MarketRefused as error:
                if error.code != "quote_expired":
                    raise
        return await self._buy(request)

    async def _buy(self, request: RouteRequest) -> RoutePlan:
        body = {
            "model": request.manifest.manifest_hash.hex(),
            "prompt_tokens": request.prompt_tokens,
            "max_tokens": request.max_tokens,
            "drafted_tokens": request.drafted_tokens,
            "wire_dtype": request.wire_dtype,
            "sealed": request.sealed,
            "deny": _texts(request.deny),
        }
        if request.funded_tokens is not None:
            body["funded_tokens"] = request.funded_tokens
        try:
            quote = await self._client.quote(body, request.api_key)
        except MarketRefused as error:
            if error.status == 503:
                raise NoRoute(request.manifest.name, error.message) from error
            raise
        return await self._lease(request, quote)

    async def replace(
        self,
        plan: RoutePlan,
        lost: frozenset[int],
        request: RouteRequest,
        *,
        rows: int,
        epoch: int | None = None,
    ) -> RoutePlan:
        body = {
            "epoch": plan.epoch + 1 if epoch is None else epoch,
            "lost": sorted(lost),
            "rows": rows,
            "remaining_tokens": request.capacity_tokens - rows,
            "deny": _texts(request.deny),
        }
        if plan.funded_rows is not None:
            # no more than the others have: the next extension is for all alike
            body["funded_tokens"] = plan.funded_rows - rows
            body["drafted_tokens"] = plan.spare_rows or 0
        try:
            answer = await self._ask_replacements(plan.session_id, body, request.api_key)
        except MarketRefused as error:
            if error.code == NO_CAPACITY:
                raise NoRoute(request.manifest.name, error.message) from error
            raise
        return self._go_on(plan, lost, request, answer)

    async def extend(
        self, plan: RoutePlan, request: RouteRequest, *, funded_tokens: int, drafted_tokens: int
    ) -> RoutePlan:
        body = {"funded_tokens": funded_tokens, "drafted_tokens": drafted_tokens}
        answer = await self._funds.buy(
            request.api_key,
            lambda: self._client.extensions(plan.session_id.hex(), body, request.api_key),
            urgent=True,
            wait_max_s=EXTENSION_WAIT_S,
        )
        envelopes = [base64.b64decode(item["lease"]) for item in answer["leases"]]
        leases = [self._open(envelope) for envelope in envelopes]
        if answer["epoch"] != plan.epoch:
            raise MarketRefused(409, "conflict", "The route was repaired meanwhile.")
        if len(leases) != len(plan.leases):
            raise VerificationError("There is not one lease for each hop of the route.")
        for lease, earlier in zip(leases, plan.leases, strict=True):
            lease.check_grows_from(earlier)
        return replace(
            plan,
            leases=tuple(leases),
            lease_envelopes=tuple(envelopes),
            funded_rows=request.prompt_tokens + funded_tokens,
            spare_rows=drafted_tokens,
        )

    async def _ask_replacements(
        self, session_id: bytes, body: Mapping[str, object], api_key: str
    ) -> dict[str, Any]:
        for _ in range(REPLACE_ATTEMPTS - 1):
            with contextlib.suppress(MarketUnreachable):
                return await self._client.replacements(session_id.hex(), body, api_key)
        return await self._client.replacements(session_id.hex(), body, api_key)

    def _go_on(
        self, plan: RoutePlan, lost: frozenset[int], request: RouteRequest, answer: dict[str, Any]
    ) -> RoutePlan:
        """The plan with what was granted in it; hops that were not lost stay as they are."""
        stay = {i: hop for i, hop in enumerate(plan.route.hops) if i not in lost}
        # of a hop that stays we know addresses that work
        hops = [stay.get(i, hop) for i, hop in enumerate(hops_of(answer))]
        new = frozenset(range(len(hops))) - stay.keys()
        envelopes = {
            item["hop_index"]: base64.b64decode(item["lease"]) for item in answer["leases"]
        }
        if envelopes.keys() != new or (stay and len(hops) != len(plan.route.hops)):
            raise VerificationError("The new leases are not those of the hops that were lost.")
        leases = {i: self._open(envelope) for i, envelope in envelopes.items()}
        envelopes |= {i: plan.lease_envelopes[i] for i in stay}
        leases |= {i: plan.leases[i] for i in stay}
        made = replace(
            plan,
            route=Route.of(plan.route.model, plan.route.layers, hops, sealed=plan.route.sealed),
            backends=tuple(hop["backend"] for hop in answer["hops"]),
            leases=tuple(leases[i] for i in range(len(hops))),
            lease_envelopes=tuple(envelopes[i] for i in range(len(hops))),
            epoch=answer["epoch"],
        )
        self._check(made, request, new)
        return made

    async def _lease(self, request: RouteRequest, quote: dict[str, Any]) -> RoutePlan:
        session_id, payer_key = secrets.token_bytes(ID_BYTES), KeyPair.generate()
        body = {
            "quote_id": quote["quote_id"],
            "session_id": session_id.hex(),
            "payer_key": payer_key.peer_id.public_key.hex(),
            "head": str(self._head),
        }
        granted = await self._client.lease(body, request.api_key)
        envelopes = tuple(base64.b64decode(envelope) for envelope in granted["leases"])
        manifest, hops = request.manifest, hops_of(quote)
        if len(envelopes) != len(hops):
            raise VerificationError("There is not one lease for each hop that was quoted.")
        made = RoutePlan(
            session_id=session_id,
            route=Route.of(manifest.name, manifest.layers, hops, sealed=request.sealed),
            backends=tuple(hop["backend"] for hop in quote["hops"]),
            leases=tuple(self._open(envelope) for envelope in envelopes),
            lease_envelopes=envelopes,
            payer_key=payer_key,
            spare_rows=request.drafted_tokens,
            funded_rows=_funded_rows(request),
        )
        self._check(made, request, frozenset(range(len(hops))))
        return made

    def _open(self, envelope: bytes) -> Lease:
        return open_envelope(Lease, envelope, signer=self._market)

    def _check(self, plan: RoutePlan, request: RouteRequest, new: frozenset[int]) -> None:
        for index in sorted(new):
            check_lease(plan, index, request, self._head)

    async def availability(self, manifest: ModelManifest) -> Availability:
        wanted = manifest.manifest_hash.hex()
        for model in await self._client.models():
            if model["manifest_hash"] == wanted:
                price = model["price"] or {}
                return Availability(
                    model["available"],
                    price.get("prompt_nanos_per_million_tokens"),
                    price.get("completion_nanos_per_million_tokens"),
                )
        return Availability(available=False)

    async def session_over(self, session_id: bytes, api_key: str) -> None:
        for again_s in (*CLOSE_AGAIN_S, None):
            try:
                await self._client.session_over(session_id.hex(), api_key)
            except PieceworkError as error:
                logger.warning("could not close session %s: %s", session_id.hex()[:8], error)
                if again_s is None or (isinstance(error, MarketRefused) and not error.may_pass):
                    return
                await asyncio.sleep(again_s)
            else:
                self._funds.freed(api_key)
                return

    async def charged(self, session_id: bytes, api_key: str) -> tuple[Nanos, bool] | None:
        try:
            session = await self._client.session(session_id.hex(), api_key)
        except MarketRefused as error:
            if error.status in (403, 404):
                return None
            raise
        return session["charged_nanos"], session["status"] in ("settled", "released")


def _funded_rows(request: RouteRequest) -> int | None:
    if request.funded_tokens is None:
        return None
    return request.prompt_tokens + request.funded_tokens


def _smaller(request: RouteRequest) -> list[RouteRequest]:
    """The request, and what may be bought in its place, each for less: rather a slower answer than
    none, and rather a shorter one."""
    undrafted = replace(request, drafted_tokens=0)
    wanted = [request, undrafted] if request.drafted_tokens else [request]
    if (funded := request.funded_tokens) is not None:
        wanted += [
            replace(undrafted, funded_tokens=tokens) for tokens in smaller_instalments(funded)
        ]
    return wanted


def _texts(peers: tuple[PeerId, ...]) -> list[str]:
    return [str(peer) for peer in peers]
