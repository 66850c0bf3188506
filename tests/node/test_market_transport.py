"""What is at a marketplace's address may be anybody: a real server on loopback that misbehaves."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from node.errors import (
    ConfigInvalid,
    KeyRefused,
    MarketRefused,
    MarketUnreachable,
    PaymentRequired,
)
from node.market_client import MarketClient
from node.market_transport import LARGE_BYTES_MAX, LIMITS, SMALL_BYTES_MAX, TEXT_CHARACTERS_MAX
from protocol.identity import KeyPair

KEY = KeyPair(b"n" * 32)
TERMS = {
    "network": "local",
    "peer_id": str(KEY.peer_id),
    "fee_basis_points": 500,
    "window_tokens": 64,
    "credit_windows": 2,
    "settlement_window_s": 10,
    "relays": [],
}
HASTY_S = 0.3
"""For an exchange that would never end by itself."""

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Stranger:
    """A server that sends the bytes it is told to, whatever was asked, and closes."""

    def __init__(self) -> None:
        self.url = ""
        self.behaviour: Behaviour = self._nothing
        self.requests: list[str] = []
        self.sent_bytes = 0
        self.left = asyncio.Event()
        """The client has closed before everything was sent."""

    async def _nothing(self, writer: asyncio.StreamWriter) -> None:
        pass

    def says(self, data: bytes) -> None:
        async def behave(writer: asyncio.StreamWriter) -> None:
            await self.send(writer, data)

        self.behaviour = behave

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent_bytes += len(data)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await self.behaviour(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def honest() -> bytes:
    return answer(json.dumps(TERMS).encode())


@pytest.fixture
async def stranger() -> AsyncIterator[Stranger]:
    made = Stranger()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


@pytest.fixture
async def client(stranger) -> AsyncIterator[MarketClient]:
    async with MarketClient(stranger.url, KEY) as made:
        yield made


@pytest.fixture
async def hasty(stranger) -> AsyncIterator[MarketClient]:
    async with MarketClient(stranger.url, KEY, whole_timeout_s=HASTY_S) as made:
        yield made


class TestTooMuch:
    async def test_a_body_that_never_ends_is_left(self, stranger, client):
        async def pour(writer):
            await stranger.send(writer, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                await stranger.send(writer, b"10000\r\n" + b" " * 0x10000 + b"\r\n")

        stranger.behaviour = pour
        with pytest.raises(MarketUnreachable, match=f"more than {SMALL_BYTES_MAX} bytes"):
            await client.terms()
        await asyncio.wait_for(stranger.left.wait(), 5)

    async def test_what_has_no_length_ends_with_the_limit(self, stranger, client):
        stranger.says(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (SMALL_BYTES_MAX + 1))
        with pytest.raises(MarketUnreachable, match="more than"):
            await client.terms()

    async def test_an_answer_as_large_as_it_may_be(self, stranger, client):
        body = json.dumps(TERMS).encode().ljust(SMALL_BYTES_MAX)
        stranger.says(answer(body))
        assert (await client.terms()).network == "local"
        stranger.says(answer(body + b" "))
        with pytest.raises(MarketUnreachable):
            await client.terms()

    async def test_the_largest_bundle_of_the_log_fits(self, stranger, client):
        bundle = bytes(256 * (0xFFFF + 2))
        stranger.says(answer(bundle))
        assert await client.tile("tile/entries/000") == bundle
        stranger.says(answer(bytes(LARGE_BYTES_MAX + 1)))
        with pytest.raises(MarketUnreachable):
            await client.tile("tile/entries/000")

    async def test_the_largest_page_of_offers_fits(self, stranger, client):
        text = '"' * 256
        offer = {
            "peer_id": str(KEY.peer_id),
            "model": text,
            "manifest_hash": "00" * 32,
            "span": {"start": 0, "end": 1024},
            "backend": text,
            "rates": dict.fromkeys("abc", 2**60),
            "addresses": [text] * 16,
            "expires_at_s": 2**40,
        }
        stranger.says(answer(json.dumps({"data": [offer] * 1000, "next": None}).encode()))
        assert len(await client.offers()) == 1000

    async def test_headers_that_never_end(self, stranger, client):
        async def pour(writer):
            await stranger.send(writer, b"HTTP/1.1 200 OK\r\n")
            while True:
                await stranger.send(writer, b"x-more: " + b"x" * 1000 + b"\r\n")

        stranger.behaviour = pour
        with pytest.raises(MarketUnreachable, match="RemoteProtocolError"):
            await client.terms()

    async def test_no_connection_is_lost_over_it(self, stranger, client):
        stranger.says(answer(b" " * (SMALL_BYTES_MAX + 1)))
        for _ in range(LIMITS.max_connections + 5):
            with pytest.raises(MarketUnreachable, match="more than"):
                await client.terms()
        stranger.says(honest())
        assert (await client.terms()).network == "local"


class TestCompressed:
    async def test_it_is_not_asked_for(self, stranger, client):
        stranger.says(honest())
        await client.terms()
        assert "accept-encoding: identity" in stranger.requests[0].lower()

    @pytest.mark.parametrize("coding", ["gzip", "gzip, gzip", "deflate", "br", "nobody-knows-it"])
    async def test_it_is_never_unpacked(self, stranger, client, coding):
        bomb = gzip.compress(gzip.compress(bytes(32 * 2**20)))
        assert len(bomb) < SMALL_BYTES_MAX
        stranger.says(answer(bomb, f"content-encoding: {coding}"))
        with pytest.raises(MarketUnreachable, match="compressed"):
            await client.terms()

    async def test_a_refusal_keeps_its_status(self, stranger, client):
        bomb = gzip.compress(bytes(32 * 2**20))
        stranger.says(answer(bomb, "content-encoding: gzip", status="503 Away"))
        with pytest.raises(MarketRefused) as caught:
            await client.terms()
        assert (caught.value.status, caught.value.code) == (503, "unknown")

    async def test_identity_is_no_compression(self, stranger, client):
        stranger.says(answer(json.dumps(TERMS).encode(), "content-encoding: Identity"))
        assert (await client.terms()).network == "local"


class TestNonsense:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"null",
            b"[1]",
            b'"text"',
            b"\xff\xfe\x00",
            b"{",
            b"{}{}",
            b"[" * 60_000,
            b'{"a":' * 10_000,
            b'{"window_tokens": NaN}',
            b'{"window_tokens": ' + b"9" * 5000 + b"}",
        ],
        ids=lambda body: repr(body[:12]),
    )
    async def test_it_is_one_clear_error(self, stranger, client, body):
        stranger.says(answer(body))
        with pytest.raises(MarketUnreachable, match="answers with") as caught:
            await client.terms()
        assert stranger.url in caught.value.message
        assert caught.value.hint

    async def test_no_time_to_wait_is_without_end(self, stranger, client):
        text = json.dumps(TERMS).replace(
            '"settlement_window_s": 10', '"settlement_window_s": 1e999'
        )
        stranger.says(answer(text.encode()))
        with pytest.raises(MarketUnreachable, match="settlement_window_s"):
            await client.terms()

    async def test_a_redirect_is_told_and_not_followed(self, stranger, client):
        where = "location: https://market.example/v1/market"
        stranger.says(answer(b"", where, status="308 Permanent Redirect"))
        with pytest.raises(MarketUnreachable, match="308 and points to https://market"):
            await client.terms()
        assert len(stranger.requests) == 1

    async def test_what_speaks_no_http(self, stranger, client):
        stranger.says(b"SSH-2.0-OpenSSH_9.6\r\n")
        with pytest.raises(MarketUnreachable, match="RemoteProtocolError"):
            await client.terms()


class TestHalf:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"HTTP/1.1 200 OK\r\ncontent-le",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{",
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"a"',
            b"HTTP/1.1 402 No\r\ncontent-length: 1000\r\n\r\n{",
        ],
        ids=["nothing", "headers", "length", "chunk", "refusal"],
    )
    async def test_the_rest_never_comes(self, stranger, client, data):
        stranger.says(data)
        with pytest.raises(MarketUnreachable, match="did not answer"):
            await client.terms()

    async def test_without_a_length_it_is_no_json(self, stranger, client):
        stranger.says(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(TERMS).encode()[:-5])
        with pytest.raises(MarketUnreachable, match="no JSON"):
            await client.terms()

    @pytest.mark.parametrize(
        ("start", "drop"),
        [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n", b" "),
            (b"HTTP/1.1 200 OK\r\nx-header: ", b"x"),
            (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        ],
        ids=["body", "header", "hints"],
    )
    async def test_byte_by_byte_it_ends_too(self, stranger, hasty, start, drop):
        async def drip(writer):
            await stranger.send(writer, start)
            while True:
                await stranger.send(writer, drop)
                await asyncio.sleep(HASTY_S / 20)

        stranger.behaviour = drip
        with pytest.raises(MarketUnreachable, match="TimeoutError"):
            await hasty.terms()
        await asyncio.wait_for(stranger.left.wait(), 5)


class TestRefusal:
    def refuse(self, stranger, error: object, status: str = "402 Payment Required") -> None:
        stranger.says(answer(json.dumps({"error": error}).encode(), status=status))

    async def test_what_the_marketplace_says_is_passed_on(self, stranger, client):
        self.refuse(stranger, {"code": "key_limit", "message": "No more.", "hint": "Raise it."})
        with pytest.raises(PaymentRequired) as caught:
            await client.terms()
        error = caught.value
        assert (error.status, error.code) == (402, "key_limit")
        assert str(error) == "No more. Raise it."

    @pytest.mark.parametrize(
        "error",
        [
            None,
            5,
            [],
            {},
            {"code": 1, "message": "m"},
            {"code": "c", "message": ["m"]},
            {"code": "c", "message": "m", "hint": {"a": "b"}},
        ],
        ids=repr,
    )
    async def test_another_shape_keeps_the_status(self, stranger, client, error):
        self.refuse(stranger, error, status="401 Unauthorized")
        with pytest.raises(KeyRefused) as caught:
            await client.terms()
        assert (caught.value.status, caught.value.code) == (401, "unknown")
        assert caught.value.message == "The marketplace answered 401."

    @pytest.mark.parametrize(
        "body",
        [b"", b"<html>", b"[]", b"[" * 60_000, b" " * (SMALL_BYTES_MAX + 1), b"\xff"],
        ids=lambda body: repr(body[:6]),
    )
    async def test_so_does_no_json_and_too_much_of_it(self, stranger, client, body):
        stranger.says(answer(body, status="409 Conflict"))
        with pytest.raises(MarketRefused) as caught:
            await client.terms()
        assert (caught.value.status, caught.value.code) == (409, "unknown")

    async def test_its_words_do_nothing_to_a_terminal(self, stranger, client):
        message = "\x1b[2J\x07 pay\r\nhere \u202e" + "!" * 5000
        self.refuse(stranger, {"code": "c\n", "message": message, "hint": "\x00"})
        with pytest.raises(PaymentRequired) as caught:
            await client.terms()
        assert str(caught.value).isprintable()
        assert caught.value.code.isprintable()
        assert len(caught.value.message) == TEXT_CHARACTERS_MAX


class TestAddress:
    @pytest.mark.parametrize(
        "url", ["http://[::1", "http://host:99999", "http://a\x00b", "http://\ud800"]
    )
    def test_none(self, url):
        with pytest.raises(ConfigInvalid, match="no address") as caught:
            MarketClient(url, KEY)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("url", ["", "localhost:1", "ftp://localhost", "http://"])
    async def test_of_another_kind(self, url):
        async with MarketClient(url, KEY) as client:
            with pytest.raises(MarketUnreachable, match="did not answer"):
                await client.terms()

    async def test_nobody_there(self):
        refused = httpx.MockTransport(_refuse_to_connect)
        async with MarketClient("http://market", KEY, transport=refused) as client:
            with pytest.raises(MarketUnreachable, match="ConnectError"):
                await client.terms()


def _refuse_to_connect(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)
