"""How a node's requests reach a marketplace: one pool of connections, signed where it speaks for
itself, and what is refused as an error of ours.

A marketplace is believed for what it signs; what answers at its address may be anybody. So an
answer is read up to a limit and within a time, it is never decompressed, and it must have the
shape that its reader relies on. Any other is MarketUnreachable, whatever is wrong with it.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import httpx

from node.errors import (
    ConfigInvalid,
    KeyRefused,
    MarketRefused,
    MarketUnreachable,
    PaymentRequired,
)
from node.market_shapes import Shape, misfit
from protocol.identity import KeyPair
from protocol.request import sign_request

__all__ = [
    "ANSWER_BYTES_MAX",
    "LARGE_BYTES_MAX",
    "SMALL_BYTES_MAX",
    "MarketAnswer",
    "MarketTransport",
    "bearer",
]

REQUEST_TIMEOUT_S = 10.0
"""A quote or a lease is a few milliseconds of work; beyond this the marketplace is down."""
CONNECT_TIMEOUT_S = 3.0
POOL_TIMEOUT_S = 60.0
"""A request that waits for one of our own connections says nothing about the marketplace."""
WHOLE_TIMEOUT_S = 120.0
"""The wait for a connection, and as long again for an answer that comes byte by byte: the largest
honest one needs a minute at 2 Mbit/s."""
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)
"""Beyond so many at once more connections only queue at the other end. Idle ones go before the
marketplace's own 5 s are over: one that it closes as we send loses the request."""

SMALL_BYTES_MAX = 64 * 1024
"""What is said of one thing (terms, an account), and every refusal: honest ones are under 4 KiB."""
ANSWER_BYTES_MAX = 4 * 2**20
"""Any other object. The largest is a session of 64 hops that were replaced 16 times, with 1,088
receipts: 1.5 MB. A thousand refused receipts with their reasons and a quote of 64 hops are less."""
LARGE_BYTES_MAX = 17 * 2**20
"""A page of a list, or a bundle of the log: 256 entries of 64 KiB are 16 MiB and 512 bytes, and a
thousand offers with 16 addresses of 256 bytes each, every one escaped, 10 MB."""
TEXT_CHARACTERS_MAX = 1000
"""Of a refusal's message or hint: it goes to terminals, logs and clients. Ours have under 300."""


@dataclass(frozen=True, slots=True)
class MarketAnswer:
    """What came with a status of 2xx, whole."""

    content: bytes

    @property
    def text(self) -> str:
        """As UTF-8; what is none of it becomes marks, which no signature covers."""
        return self.content.decode(errors="replace")


class MarketTransport:
    """One connection pool to one marketplace. `key` signs this node's own requests.

    `timeout_s`: of one step of a request; `whole_timeout_s`: of all of it. `transport`: how
    requests travel, where not by the network. Raises ConfigInvalid for what is no address.

    Every request raises MarketRefused (or its kinds) where the marketplace said no, and
    MarketUnreachable where there is no answer, or none that can be used.
    """

    def __init__(
        self,
        url: str,
        key: KeyPair,
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = REQUEST_TIMEOUT_S,
        whole_timeout_s: float = WHOLE_TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._clock = clock
        self._whole_timeout_s = whole_timeout_s
        self._client = httpx.AsyncClient(
            base_url=_address(self.url),
            # a few compressed bytes can stand for gigabytes, and httpx unpacks without a limit
            headers={"accept-encoding": "identity"},
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

    async def _get(
        self,
        target: str,
        api_key: str = "",
        *,
        shape: Shape | None = None,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> dict[str, Any]:
        answer = await self._request("GET", target, headers=bearer(api_key), bytes_max=bytes_max)
        return self._object(answer, shape)

    async def _post(
        self,
        target: str,
        body: Mapping[str, object],
        api_key: str = "",
        *,
        shape: Shape | None = None,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> dict[str, Any]:
        content = json.dumps(body).encode()
        headers = bearer(api_key) | {"content-type": "application/json"}
        answer = await self._request(
            "POST", target, content=content, headers=headers, bytes_max=bytes_max
        )
        return self._object(answer, shape)

    async def _signed_json(
        self,
        method: str,
        target: str,
        body: Mapping[str, object] | None,
        *,
        shape: Shape | None = None,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> dict[str, Any]:
        content = b"" if body is None else json.dumps(body).encode()
        answer = await self._signed(
            method, target, content, "application/json", bytes_max=bytes_max
        )
        return self._object(answer, shape)

    async def _signed(
        self,
        method: str,
        target: str,
        content: bytes,
        content_type: str | None,
        *,
        bytes_max: int = SMALL_BYTES_MAX,
    ) -> MarketAnswer:
        headers = sign_request(self._key, method, target, content, now_s=self._clock())
        if content_type is not None:
            headers["content-type"] = content_type
        return await self._request(
            method, target, content=content, headers=headers, bytes_max=bytes_max
        )

    async def _request(
        self,
        method: str,
        target: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        bytes_max: int = LARGE_BYTES_MAX,
    ) -> MarketAnswer:
        """`bytes_max`: what the answer's body may have."""
        sent = self._client.stream(method, target, content=content, headers=headers)
        try:
            async with asyncio.timeout(self._whole_timeout_s), sent as response:
                if response.is_error:
                    raise await _refusal(response)
                if not response.is_success:
                    self._fail(f"answers {response.status_code}{_elsewhere(response)}")
                return MarketAnswer(await _read(response, bytes_max))
        except _Unreadable as error:
            self._fail(str(error))
        except (httpx.HTTPError, TimeoutError) as error:
            raise MarketUnreachable(
                f"The marketplace at {self.url} did not answer ({type(error).__name__}).",
                hint="Check the address and that piecework-market runs.",
            ) from error

    def _object(self, answer: MarketAnswer, shape: Shape | None) -> dict[str, Any]:
        """The JSON object of an answer; without a body, an empty one."""
        try:
            data = _parse(answer.content or b"{}")
        except (ValueError, RecursionError):
            self._fail("answers with what is no JSON")
        if not isinstance(data, dict):
            self._fail("answers with what is no JSON object")
        if shape is not None and (place := misfit(data, shape)) is not None:
            self._fail(f"answers without a fit value at '{place.lstrip('.')}'")
        return data

    def _fail(self, what: str) -> NoReturn:
        raise MarketUnreachable(
            f"What is at {self.url} {what}.",
            hint="Check that this is a marketplace's address, and of a version that goes with us.",
        )


def bearer(api_key: str) -> dict[str, str]:
    """The header of a buyer's own requests."""
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _address(url: str) -> httpx.URL:
    """Raises ConfigInvalid; what is merely of another scheme is told when it is asked."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        why = str(error)
    else:
        if (address.port or 0) < 2**16:
            return address
        why = "Its port is above 65535."
    raise ConfigInvalid(
        f"'{_printable(url)[:128]}' is no address of a marketplace: {why}",
        hint="Give it as http://HOST:PORT or https://HOST.",
    )


class _Unreadable(Exception):
    """A body that is not taken in; says what is wrong with it."""


async def _read(response: httpx.Response, bytes_max: int) -> bytes:
    """The whole body; raises _Unreadable for one that is compressed or too large."""
    coding = response.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise _Unreadable("answers compressed, though it was asked not to")
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > bytes_max:
            raise _Unreadable(f"answers with more than {bytes_max} bytes")
    return bytes(body)


def _parse(content: bytes) -> Any:
    """Raises ValueError or RecursionError."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(name)

    return json.loads(content, parse_constant=refuse)


async def _refusal(response: httpx.Response) -> MarketRefused:
    """The marketplace's error as ours; a body that is not its own kind keeps the status."""
    status = response.status_code
    try:
        error = _parse(await _read(response, SMALL_BYTES_MAX))["error"]
        code, message = _printable(error["code"]), _printable(error["message"])
        hint = _printable(error.get("hint") or "")
    except (_Unreadable, ValueError, KeyError, TypeError, RecursionError):
        code, message, hint = "unknown", f"The marketplace answered {status}.", ""
    kinds = {401: KeyRefused, 402: PaymentRequired}
    return kinds.get(status, MarketRefused)(status, code, message, hint=hint)


def _elsewhere(response: httpx.Response) -> str:
    """Where a redirect points: it is not followed, for nobody has said that it may be."""
    target = response.headers.get("location", "")
    return f" and points to {_printable(target)[:256]}" if target else ""


def _printable(text: object) -> str:
    """A stranger's text, cut and without control characters; raises TypeError for none."""
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} is no text")
    return "".join(c if c.isprintable() else " " for c in text[:TEXT_CHARACTERS_MAX])
