"""The marketplace as a node sees it: what providers say, what a head buys, what a buyer owns."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.market_ledger import LedgerClient
from node.market_transport import bearer
from protocol.acknowledgement import ReceiptResult, SignedResults
from protocol.envelope import Envelope
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.model import ModelManifest
from protocol.route import Span

__all__ = ["MarketClient", "MarketTerms"]


@dataclass(frozen=True, slots=True)
class MarketTerms:
    """What a marketplace says of itself. `peer_id` is the key that signs leases."""

    network: str
    peer_id: PeerId
    fee_basis_points: int
    window_tokens: int
    credit_windows: int
    settlement_window_s: float
    relays: tuple[str, ...] = ()
    """Multiaddrs of the pool's relays."""


class MarketClient(LedgerClient):
    """One marketplace, and its public ledger."""

    async def terms(self) -> MarketTerms:
        data = await self._get("/v1/market")
        return MarketTerms(
            network=data["network"],
            peer_id=PeerId.from_text(data["peer_id"]),
            fee_basis_points=data["fee_basis_points"],
            window_tokens=data["window_tokens"],
            credit_windows=data["credit_windows"],
            settlement_window_s=data["settlement_window_s"],
            relays=tuple(data.get("relays", ())),
        )

    # what a provider says

    async def register_manifest(self, manifest: ModelManifest) -> None:
        target = f"/v1/manifests/{manifest.manifest_hash.hex()}"
        await self._signed("PUT", target, manifest.encode(), "application/cbor")

    async def place(self, manifest_hash: bytes, layers_max: int) -> Span:
        """Which span this node should serve, reserved for it for a minute."""
        body = {"manifest_hash": manifest_hash.hex(), "layers_max": layers_max}
        data = await self._signed_json("POST", "/v1/placements", body)
        return Span(data["span"]["start"], data["span"]["end"])

    async def offer(self, offer: Envelope) -> None:
        body = {"offer": base64.b64encode(offer.encode()).decode()}
        await self._signed_json("PUT", "/v1/offers", body)

    async def withdraw_offers(self) -> None:
        await self._signed("DELETE", "/v1/offers", b"", None)

    async def hand_in(self, batch: Sequence[bytes]) -> SignedResults:
        """Receipts for settlement; one result each, and the signature over all (see ReceiptSink).

        Raises RemoteProtocolError for an answer of another shape. Nothing is verified here.
        """
        body = {"receipts": [base64.b64encode(receipt).decode() for receipt in batch]}
        data = await self._signed_json("POST", "/v1/receipts", body)
        try:
            return SignedResults(
                tuple(
                    ReceiptResult(
                        hashlib.sha256(receipt).digest(),
                        str(result["status"]),
                        str(result["reason"]),
                        result["leaf_index"],
                    )
                    for receipt, result in zip(batch, data["results"], strict=True)
                ),
                base64.b64decode(data["acknowledgement"], validate=True),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RemoteProtocolError(
                "The marketplace's answer to receipts does not fit them."
            ) from error

    async def earnings(self) -> dict[str, Any]:
        return await self._signed_json("GET", "/v1/provider", None)

    async def ask(self, target: str) -> dict[str, Any]:
        """Any page that this machine may see of its account."""
        return await self._signed_json("GET", target, None)

    # what a head asks for a buyer

    async def quote(self, body: Mapping[str, object], api_key: str) -> dict[str, Any]:
        return await self._post("/v1/quotes", body, api_key)

    async def lease(self, body: Mapping[str, object], api_key: str) -> dict[str, Any]:
        return await self._post("/v1/leases", body, api_key)

    async def replacements(
        self, session_id: str, body: Mapping[str, object], api_key: str
    ) -> dict[str, Any]:
        """Other hops for a session, under a later epoch. The same again gives the same answer."""
        return await self._post(f"/v1/sessions/{session_id}/replacements", body, api_key)

    async def extensions(
        self, session_id: str, body: Mapping[str, object], api_key: str
    ) -> dict[str, Any]:
        """Pay for more of a running answer: the present leases again, with higher limits."""
        return await self._post(f"/v1/sessions/{session_id}/extensions", body, api_key)

    async def session_over(self, session_id: str, api_key: str) -> None:
        target = f"/v1/sessions/{session_id}/close"
        await self._request("POST", target, headers=bearer(api_key))  # says 202 and no more

    async def session(self, session_id: str, api_key: str) -> dict[str, Any]:
        return await self._get(f"/v1/sessions/{session_id}", api_key)

    async def models(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = (await self._get("/v1/models"))["data"]
        return models

    async def offers(self) -> list[dict[str, Any]]:
        offers: list[dict[str, Any]] = (await self._get("/v1/offers"))["data"]
        return offers

    # a buyer's account

    async def create_account(self, name: str) -> dict[str, Any]:
        return await self._post("/v1/accounts", {"name": name})

    async def account(self, api_key: str) -> dict[str, Any]:
        return await self._get("/v1/account", api_key)

    async def top_up(self, topup_id: str, amount_nanos: int, api_key: str) -> dict[str, Any]:
        body = {"topup_id": topup_id, "amount_nanos": amount_nanos}
        return await self._post("/v1/topups", body, api_key)

    async def complete_test_checkout(self, topup_id: str) -> dict[str, Any]:
        """Play the card holder at the built-in test processor. No money moves."""
        return await self._post(f"/v1/test-processor/checkouts/{topup_id}/complete", {})
