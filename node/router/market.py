"""The paid router: a quote, a hold, and one lease a hop. Two round trips, none after."""

import asyncio
import base64
import logging
import secrets
from typing import Any

from node.errors import MarketRefused
from node.market_client import MarketClient
from node.router.base import Availability, RoutePlan, Router, RouteRequest
from protocol.envelope import open_envelope
from protocol.errors import NoRoute, PieceworkError, VerificationError
from protocol.identity import KeyPair, PeerId
from protocol.lease import ID_BYTES, Lease
from protocol.model import ModelManifest
from protocol.money import Nanos
from protocol.route import Hop, Route, Span

__all__ = ["MarketRouter"]

CLOSE_ATTEMPTS = 3
"""Telling the marketplace that a session is over only frees the buyer's hold sooner."""

logger = logging.getLogger(__name__)


class MarketRouter(Router):
    """Buys routes from one marketplace, whose key `market` is pinned. `head` is our PeerId."""

    def __init__(self, client: MarketClient, market: PeerId, head: PeerId) -> None:
        self._client = client
        self._market = market
        self._head = head

    async def plan(self, request: RouteRequest) -> RoutePlan:
        manifest = request.manifest
        body = {
            "model": manifest.manifest_hash.hex(),
            "prompt_tokens": request.prompt_tokens,
            "max_tokens": request.max_tokens,
            "wire_dtype": request.wire_dtype,
            "sealed": request.sealed,
            "deny": [str(peer) for peer in request.deny],
        }
        try:
            quote = await self._client.quote(body, request.api_key)
        except MarketRefused as error:
            if error.status == 503:
                raise NoRoute(manifest.name, error.message) from error
            raise
        return await self._lease(request, quote)

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
        leases = tuple(open_envelope(Lease, data, signer=self._market) for data in envelopes)
        hops = [
            Hop(
                PeerId.from_text(hop["peer_id"]),
                Span(hop["span"]["start"], hop["span"]["end"]),
                tuple(hop["addresses"]),
            )
            for hop in quote["hops"]
        ]
        if [(h.peer_id, h.span) for h in hops] != [(le.provider, le.span) for le in leases]:
            raise VerificationError("The leases are not for the route that was quoted.")
        manifest = request.manifest
        return RoutePlan(
            session_id=session_id,
            route=Route.of(manifest.name, manifest.layers, hops, sealed=request.sealed),
            backends=tuple(hop["backend"] for hop in quote["hops"]),
            leases=leases,
            lease_envelopes=envelopes,
            payer_key=payer_key,
        )

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
        for attempt in range(CLOSE_ATTEMPTS):
            try:
                await self._client.session_over(session_id.hex(), api_key)
            except PieceworkError as error:
                logger.warning("could not close session %s: %s", session_id.hex()[:8], error)
                await asyncio.sleep(2**attempt)
            else:
                return

    async def charged(self, session_id: bytes, api_key: str) -> tuple[Nanos, bool] | None:
        try:
            session = await self._client.session(session_id.hex(), api_key)
        except MarketRefused as error:
            if error.status in (403, 404):
                return None
            raise
        return session["charged_nanos"], session["status"] in ("settled", "released")
