"""The marketplace as a node sees it: one HTTP client, signed where a node speaks for itself."""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from node.errors import KeyRefused, MarketRefused, MarketUnreachable, PaymentRequired
from protocol.acknowledgement import ReceiptResult, SignedResults
from protocol.envelope import Envelope
from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair, PeerId
from protocol.model import ModelManifest
from protocol.request import sign_request
from protocol.route import Span

__all__ = ["MarketClient", "MarketTerms"]

REQUEST_TIMEOUT_S = 10.0
"""A quote or a lease is a few milliseconds of work; beyond this the marketplace is down."""
CONNECT_TIMEOUT_S = 3.0
POOL_TIMEOUT_S = 60.0
"""A request that waits for one of our own connections says nothing about the marketplace."""


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


class MarketClient:
    """One connection pool to one marketplace. `key` signs this node's own requests.

    `transport`: how requests travel, where not by the network.
    """

    def __init__(
        self,
        url: str,
        key: KeyPair,
        *,
        clock: Callable[[], float] = time.time,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._clock = clock
        self._client = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(
                REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S
            ),
            trust_env=False,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

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
        await self._request("POST", target, headers=_bearer(api_key))  # says 202 and no more

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

    # the public ledger

    async def checkpoint(self) -> str:
        return (await self._request("GET", "/v1/ledger/checkpoint")).text

    async def leaves(self, start: int, count: int) -> list[bytes]:
        data = await self._get(f"/v1/ledger/leaves?start={start}&count={count}")
        return [base64.b64decode(leaf) for leaf in data["leaves"]]

    async def totals(self) -> dict[str, Any]:
        return await self._get("/v1/ledger/totals")

    async def find_checkpoint(
        self, size_max: int | None = None, *, cosigned: bool = False
    ) -> dict[str, Any]:
        """The newest checkpoint of at most so many entries, or the newest cosigned: `size`, `note`,
        `totals`. Nothing of it is verified here."""
        query = "cosigned=true" if cosigned else ""
        if size_max is not None:
            query = f"size_max={size_max}"
        return await self._get(f"/v1/ledger/checkpoints?{query}")

    async def consistency(self, first: int, second: int) -> list[bytes]:
        data = await self._get(f"/v1/ledger/consistency?first={first}&second={second}")
        return [bytes.fromhex(item) for item in data["hashes"]]

    async def tile(self, path: str) -> bytes:
        """What stands at `tile/…` (ledger/tiles.py)."""
        return (await self._request("GET", f"/v1/ledger/{path}")).content

    async def logged_receipts(self, *, lease: str = "", session: str = "") -> list[dict[str, Any]]:
        query = f"lease={lease}" if lease else f"session={session}"
        data = await self._get(f"/v1/ledger/receipts?{query}")
        receipts: list[dict[str, Any]] = data["receipts"]
        return receipts

    async def proof_file(self, index: int) -> str:
        """A `.tlog-proof` of one entry."""
        return (await self._request("GET", f"/v1/ledger/proofs/{index}")).text

    async def cosign(self, size: int, line: str) -> None:
        """This node's line under a checkpoint."""
        await self._signed_json("POST", "/v1/ledger/cosignatures", {"size": size, "line": line})

    async def balance_proofs(self, api_key: str = "") -> dict[str, Any]:
        """The account's place in the newest balance tree; without a key this machine's."""
        if api_key:
            return await self._get("/v1/account/balance-proof", api_key)
        return await self._signed_json("GET", "/v1/provider/balance-proof", None)

    async def _get(self, target: str, api_key: str = "") -> dict[str, Any]:
        return _object(await self._request("GET", target, headers=_bearer(api_key)))

    async def _post(
        self, target: str, body: Mapping[str, object], api_key: str = ""
    ) -> dict[str, Any]:
        content = json.dumps(body).encode()
        headers = _bearer(api_key) | {"content-type": "application/json"}
        return _object(await self._request("POST", target, content=content, headers=headers))

    async def _signed_json(
        self, method: str, target: str, body: Mapping[str, object] | None
    ) -> dict[str, Any]:
        content = b"" if body is None else json.dumps(body).encode()
        return _object(await self._signed(method, target, content, "application/json"))

    async def _signed(
        self, method: str, target: str, content: bytes, content_type: str | None
    ) -> httpx.Response:
        headers = sign_request(self._key, method, target, content, now_s=self._clock())
        if content_type is not None:
            headers["content-type"] = content_type
        return await self._request(method, target, content=content, headers=headers)

    async def _request(
        self,
        method: str,
        target: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            response = await self._client.request(method, target, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise MarketUnreachable(
                f"The marketplace at {self.url} did not answer ({type(error).__name__}).",
                hint="Check the address and that piecework-market runs.",
            ) from error
        if response.is_error:
            raise _refusal(response)
        return response


def _bearer(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _object(response: httpx.Response) -> dict[str, Any]:
    if not response.content:
        return {}
    data = response.json()
    if not isinstance(data, dict):
        raise MarketUnreachable("The marketplace answered something that is not an object.")
    return data


def _refusal(response: httpx.Response) -> MarketRefused:
    """The marketplace's error as ours; a body that is not its own kind keeps the status."""
    try:
        error = response.json()["error"]
        code, message, hint = error["code"], error["message"], error.get("hint") or ""
    except (ValueError, KeyError, TypeError):
        code, message, hint = "unknown", f"The marketplace answered {response.status_code}.", ""
    kinds = {401: KeyRefused, 402: PaymentRequired}
    return kinds.get(response.status_code, MarketRefused)(
        response.status_code, code, message, hint=hint
    )
