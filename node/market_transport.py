"""How a node's requests reach a marketplace: one pool of connections, signed where it speaks for
itself, and what is refused as an error of ours."""

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from node.errors import KeyRefused, MarketRefused, MarketUnreachable, PaymentRequired
from protocol.identity import KeyPair
from protocol.request import sign_request

__all__ = ["MarketTransport", "bearer"]

REQUEST_TIMEOUT_S = 10.0
"""A quote or a lease is a few milliseconds of work; beyond this the marketplace is down."""
CONNECT_TIMEOUT_S = 3.0
POOL_TIMEOUT_S = 60.0
"""A request that waits for one of our own connections says nothing about the marketplace."""
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)
"""Beyond so many at once more connections only queue at the other end. Idle ones go before the
marketplace's own 5 s are over: one that it closes as we send loses the request."""


class MarketTransport:
    """One connection pool to one marketplace. `key` signs this node's own requests.

    `timeout_s`: of one request. `transport`: how requests travel, where not by the network.
    """

    def __init__(
        self,
        url: str,
        key: KeyPair,
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = REQUEST_TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._clock = clock
        self._client = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S),
            limits=LIMITS,
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

    async def _get(self, target: str, api_key: str = "") -> dict[str, Any]:
        return _object(await self._request("GET", target, headers=bearer(api_key)))

    async def _post(
        self, target: str, body: Mapping[str, object], api_key: str = ""
    ) -> dict[str, Any]:
        content = json.dumps(body).encode()
        headers = bearer(api_key) | {"content-type": "application/json"}
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


def bearer(api_key: str) -> dict[str, str]:
    """The header of a buyer's own requests."""
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
