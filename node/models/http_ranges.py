"""Byte ranges over HTTP (RFC 9110, 14): bounded, without leaking a token, and never decoded.

Redirects are followed by hand: hubs send weight files on to another host, and a token is for the
host it was given for and no other.
"""

import contextlib
import functools
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

import httpx

from node.models.errors import NotHeld, SourceFailed

__all__ = ["HttpRanges"]

REDIRECTS_MAX: Final = 5
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0
"""Without a byte for this long the connection is given up."""
CONNECTIONS_MAX: Final = 16

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class HttpRanges:
    """One client, whose token (if any) is sent to `token_url`'s origin alone."""

    def __init__(self, *, token: str | None = None, token_url: str = "") -> None:
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            follow_redirects=False,
            verify=_tls(),
        )
        self._token = token
        self._token_origin = _origin(httpx.URL(token_url)) if token and token_url else None

    async def close(self) -> None:
        await self._client.aclose()

    async def read(self, url: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, end), in chunks; fewer when the server breaks off."""
        if start == end:
            return
        async with self._opened(url, {"range": f"bytes={start}-{end - 1}"}) as response:
            _check_range(response, start, end)
            left = end - start
            try:
                async for chunk in response.aiter_raw():
                    yield chunk[:left]
                    left -= min(left, len(chunk))
                    if not left:
                        return
            except (httpx.HTTPError, httpx.StreamError) as error:
                raise SourceFailed(f"The connection broke off ({type(error).__name__}).") from error

    async def read_range(self, url: str, start: int, end: int) -> bytes:
        """All of [start, end) at once; for headers."""
        data = bytearray()
        async with contextlib.aclosing(self.read(url, start, end)) as chunks:
            async for chunk in chunks:
                data += chunk
        if len(data) != end - start:
            raise SourceFailed(f"Only {len(data)} of {end - start} bytes came.")
        return bytes(data)

    async def read_whole(self, url: str, bytes_max: int) -> bytes:
        """A small file; raises SourceFailed when it has more than `bytes_max` bytes."""
        async with self._opened(url, {}) as response:
            data = bytearray()
            try:
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > bytes_max:
                        raise SourceFailed(f"A file has more than {bytes_max} bytes.")
            except (httpx.HTTPError, httpx.StreamError) as error:
                raise SourceFailed(f"The connection broke off ({type(error).__name__}).") from error
            return bytes(data)

    @contextlib.asynccontextmanager
    async def _opened(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """The response behind the redirects, closed at the end; raises for every refusal."""
        try:
            target = httpx.URL(url)
            for _ in range(REDIRECTS_MAX + 1):
                response = await self._send(target, headers)
                if response.next_request is None:
                    break
                await response.aclose()
                target = _next_target(target, response.next_request.url)
            else:
                raise SourceFailed(f"More than {REDIRECTS_MAX} redirects.")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceFailed(f"It did not answer ({type(error).__name__}).") from error
        try:
            _check_status(response)
            yield response
        finally:
            await response.aclose()

    async def _send(self, target: httpx.URL, headers: Mapping[str, str]) -> httpx.Response:
        own = {"accept-encoding": "identity", **headers}
        if self._token_origin is not None and _origin(target) == self._token_origin:
            own["authorization"] = f"Bearer {self._token}"
        request = self._client.build_request("GET", target, headers=own)
        return await self._client.send(request, stream=True)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes 50 ms; one context does for every source."""
    return httpx.create_ssl_context()


def _check_status(response: httpx.Response) -> None:
    if response.status_code in (404, 410):
        raise NotHeld("It has no such file.")
    if not response.is_success:
        raise SourceFailed(f"It answered {response.status_code}.")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise SourceFailed("It answered compressed, though it was asked not to.")


def _check_range(response: httpx.Response, start: int, end: int) -> None:
    """A server may ignore ranges and send the file from its start: that is no answer."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status_code != httpx.codes.PARTIAL_CONTENT or found is None:
        raise SourceFailed("It does not serve byte ranges.")
    if int(found[1]) != start or int(found[2]) >= end:
        raise SourceFailed("It answered with another range than was asked for.")


def _next_target(here: httpx.URL, there: httpx.URL) -> httpx.URL:
    if here.scheme == "https" and there.scheme != "https":
        raise SourceFailed("It redirects from https to a connection that anyone can read.")
    return there


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
