"""The marketplace as a node sees it: what providers say, what a head buys, what a buyer owns.

Every answer has the shape that its readers rely on, or it is MarketUnreachable: beside each kind
of answer stands what is read of it, here or by whoever asked.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.errors import MarketUnreachable
from node.market_ledger import LedgerClient
from node.market_shapes import (
    Shape,
    is_base64,
    is_flag,
    is_hex,
    is_number,
    is_text,
    is_whole,
)
from node.market_transport import LARGE_BYTES_MAX, SMALL_BYTES_MAX, bearer
from protocol.acknowledgement import ReceiptResult, SignedResults
from protocol.envelope import Envelope
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.model import ModelManifest
from protocol.route import Span

__all__ = ["MarketClient", "MarketTerms"]

_TERMS: Shape = {
    "network": is_text,
    "peer_id": is_text,
    "fee_basis_points": is_whole,
    "window_tokens": is_whole,
    "credit_windows": is_whole,
    "settlement_window_s": is_number,
    "relays": [is_text],
}
_SPAN: Shape = {"start": is_whole, "end": is_whole}
_HOP: Shape = {"peer_id": is_text, "span": _SPAN, "addresses": [is_text], "backend": is_text}
_QUOTE: Shape = {"quote_id": is_hex, "hops": [_HOP]}
_LEASES: Shape = {"leases": [is_base64]}
_REPLACEMENTS: Shape = {
    "epoch": is_whole,
    "hops": [_HOP],
    "leases": [{"hop_index": is_whole, "lease": is_base64}],
}
_EXTENSIONS: Shape = {"epoch": is_whole, "leases": [{"lease": is_base64}]}
_SESSION: Shape = {"charged_nanos": is_whole, "status": is_text}
_PRICE: Shape = {
    "prompt_nanos_per_million_tokens": is_whole,
    "completion_nanos_per_million_tokens": is_whole,
}
_MODEL: Shape = {
    "id": is_text,
    "manifest_hash": is_hex,
    "available": is_flag,
    "price": (_PRICE, None),
}
_OFFER: Shape = {
    "peer_id": is_text,
    "model": is_text,
    "manifest_hash": is_hex,
    "span": _SPAN,
    "backend": is_text,
    "addresses": [is_text],
}
_ACCOUNT: Shape = {
    "account_id": is_text,
    "name": is_text,
    "balance": {"available_nanos": is_whole},
}
_RESULTS: Shape = {
    "results": [{"status": is_text, "reason": is_text, "leaf_index": (is_whole, None)}],
    "acknowledgement": is_base64,
}


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
        data = await self._get("/v1/market", shape=_TERMS, bytes_max=SMALL_BYTES_MAX)
        try:
            peer_id = PeerId.from_text(data["peer_id"])
        except RemoteProtocolError as error:
            raise MarketUnreachable(f"What is at {self.url} shows no key. {error}") from error
        return MarketTerms(
            network=data["network"],
            peer_id=peer_id,
            fee_basis_points=data["fee_basis_points"],
            window_tokens=data["window_tokens"],
            credit_windows=data["credit_windows"],
            settlement_window_s=data["settlement_window_s"],
            relays=tuple(data["relays"]),
        )

    # what a provider says

    async def register_manifest(self, manifest: ModelManifest) -> None:
        target = f"/v1/manifests/{manifest.manifest_hash.hex()}"
        await self._signed("PUT", target, manifest.encode(), "application/cbor")

    async def place(self, manifest_hash: bytes, layers_max: int) -> Span:
        """Which span this node should serve, reserved for it for a minute."""
        body = {"manifest_hash": manifest_hash.hex(), "layers_max": layers_max}
        data = await self._signed_json(
            "POST", "/v1/placements", body, shape={"span": _SPAN}, bytes_max=SMALL_BYTES_MAX
        )
        return Span(data["span"]["start"], data["span"]["end"])

    async def offer(self, offer: Envelope) -> None:
        body = {"offer": base64.b64encode(offer.encode()).decode()}
        await self._signed_json("PUT", "/v1/offers", body, bytes_max=SMALL_BYTES_MAX)

    async def withdraw_offers(self) -> None:
        await self._signed("DELETE", "/v1/offers", b"", None)

    async def hand_in(self, batch: Sequence[bytes]) -> SignedResults:
        """Receipts for settlement; one result each, and the signature over all (see ReceiptSink).

        Raises RemoteProtocolError where the results are not as many. Nothing is verified here.
        """
        body = {"receipts": [base64.b64encode(receipt).decode() for receipt in batch]}
        data = await self._signed_json("POST", "/v1/receipts", body, shape=_RESULTS)
        if len(data["results"]) != len(batch):
            raise RemoteProtocolError("The marketplace's answer to receipts does not fit them.")
        return SignedResults(
            tuple(
                ReceiptResult(
                    hashlib.sha256(receipt).digest(),
                    result["status"],
                    result["reason"],
                    result["leaf_index"],
                )
                for receipt, result in zip(batch, data["results"], strict=True)
            ),
            base64.b64decode(data["acknowledgement"], validate=True),
        )

    async def earnings(self) -> dict[str, Any]:
        return await self._signed_json(
            "GET", "/v1/provider", None, shape={"earned_nanos": is_whole}
        )

    async def ask(self, target: str, shape: Shape | None = None) -> dict[str, Any]:
        """Any page that this machine may see of its account; `shape`: what is read of it."""
        return await self._signed_json("GET", target, None, shape=shape)

    # what a head asks for a buyer

    async def quote(self, body: Mapping[str, object], api_key: str) -> dict[str, Any]:
        return await self._post("/v1/quotes", body, api_key, shape=_QUOTE)

    async def lease(self, body: Mapping[str, object], api_key: str) -> dict[str, Any]:
        return await self._post("/v1/leases", body, api_key, shape=_LEASES)

    async def replacements(
        self, session_id: str, body: Mapping[str, object], api_key: str
    ) -> dict[str, Any]:
        """Other hops for a session, under a later epoch. The same again gives the same answer."""
        target = f"/v1/sessions/{session_id}/replacements"
        return await self._post(target, body, api_key, shape=_REPLACEMENTS)

    async def extensions(
        self, session_id: str, body: Mapping[str, object], api_key: str
    ) -> dict[str, Any]:
        """Pay for more of a running answer: the present leases again, with higher limits."""
        target = f"/v1/sessions/{session_id}/extensions"
        return await self._post(target, body, api_key, shape=_EXTENSIONS)

    async def session_over(self, session_id: str, api_key: str) -> None:
        target = f"/v1/sessions/{session_id}/close"
        # says 202 and no more
        await self._request("POST", target, headers=bearer(api_key), bytes_max=SMALL_BYTES_MAX)

    async def session(self, session_id: str, api_key: str) -> dict[str, Any]:
        return await self._get(f"/v1/sessions/{session_id}", api_key, shape=_SESSION)

    async def models(self) -> list[dict[str, Any]]:
        return await self._list("/v1/models", _MODEL)

    async def offers(self) -> list[dict[str, Any]]:
        return await self._list("/v1/offers", _OFFER)

    async def _list(self, target: str, each: Shape) -> list[dict[str, Any]]:
        """The first page."""
        answer = await self._get(target, shape={"data": [each]}, bytes_max=LARGE_BYTES_MAX)
        data: list[dict[str, Any]] = answer["data"]
        return data

    # a buyer's account

    async def create_account(self, name: str) -> dict[str, Any]:
        shape: Shape = {"api_key": is_text}
        return await self._post(
            "/v1/accounts", {"name": name}, shape=shape, bytes_max=SMALL_BYTES_MAX
        )

    async def account(self, api_key: str) -> dict[str, Any]:
        return await self._get("/v1/account", api_key, shape=_ACCOUNT, bytes_max=SMALL_BYTES_MAX)

    async def top_up(self, topup_id: str, amount_nanos: int, api_key: str) -> dict[str, Any]:
        body = {"topup_id": topup_id, "amount_nanos": amount_nanos}
        return await self._post("/v1/topups", body, api_key, bytes_max=SMALL_BYTES_MAX)

    async def complete_test_checkout(self, topup_id: str) -> dict[str, Any]:
        """Play the card holder at the built-in test processor. No money moves."""
        target = f"/v1/test-processor/checkouts/{topup_id}/complete"
        return await self._post(target, {}, bytes_max=SMALL_BYTES_MAX)
