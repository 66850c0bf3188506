"""A client that leaves takes its answer with it, at every stage."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from node.api import disconnect
from node.api.disconnect import ClientGone, send_within
from node.head.testing import FAKE_MODEL, FakeHead, FakeScript

ASK: dict[str, Any] = {
    "model": FAKE_MODEL.id,
    "messages": [{"role": "user", "content": "Tell me everything"}],
}
ENDLESS = ("word ",) * 100_000
CANCEL_S = 1.0
"""Between a client's end and its answer's."""


def send_request(port: int, body: dict[str, Any]) -> socket.socket:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(head.encode() + data)
    return connection


def reset(connection: socket.socket) -> None:
    """End with RST, as a killed process or a vanished machine's router does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closed", "reset"])
class TestLeaving:
    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_while_tokens_come(
        self, serve: Callable[..., Any], until: Callable[..., None], leave: Any, stream: bool
    ) -> None:
        served = serve(FakeHead(FakeScript(pieces=ENDLESS, piece_s=0.005)))
        connection = send_request(served.port, {**ASK, "stream": stream})
        until(lambda: served.head.answers and served.head.answers[0].completion_tokens > 3)
        leave(connection)
        left_s = time.monotonic()
        until(lambda: served.head.answers[0].is_cancelled)
        assert time.monotonic() - left_s < CANCEL_S

    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_during_prefill(
        self, serve: Callable[..., Any], until: Callable[..., None], leave: Any, stream: bool
    ) -> None:
        served = serve(FakeHead(FakeScript(prefill_s=60)))
        connection = send_request(served.port, {**ASK, "stream": stream})
        until(lambda: served.head.answers)
        leave(connection)
        left_s = time.monotonic()
        until(lambda: served.head.answers[0].is_cancelled)
        assert time.monotonic() - left_s < CANCEL_S

    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_while_the_route_is_sought(
        self, serve: Callable[..., Any], until: Callable[..., None], leave: Any, stream: bool
    ) -> None:
        served = serve(FakeHead(FakeScript(opening_s=60)))
        connection = send_request(served.port, {**ASK, "stream": stream})
        until(lambda: served.head.requests)
        leave(connection)
        left_s = time.monotonic()
        until(lambda: served.head.opening_cancelled == 1)
        assert time.monotonic() - left_s < CANCEL_S
        assert served.head.answers == []


class TestSDK:
    def test_leaving_the_stream_cancels(
        self, serve: Callable[..., Any], until: Callable[..., None]
    ) -> None:
        served = serve(FakeHead(FakeScript(pieces=ENDLESS, piece_s=0.002)))
        with served.sdk.chat.completions.create(**ASK, stream=True) as stream:
            next(iter(stream))
        until(lambda: served.head.answers[0].is_cancelled)

    def test_client_timeout_of_a_whole_answer_cancels(
        self, serve: Callable[..., Any], until: Callable[..., None]
    ) -> None:
        served = serve(FakeHead(FakeScript(pieces=ENDLESS, piece_s=0.005)))
        with pytest.raises(openai.APITimeoutError):
            served.sdk.with_options(timeout=0.2).chat.completions.create(**ASK)
        until(lambda: served.head.answers[0].is_cancelled)

    def test_others_are_not_disturbed(
        self, serve: Callable[..., Any], until: Callable[..., None]
    ) -> None:
        served = serve(FakeHead(FakeScript(pieces=["x"] * 50, piece_s=0.005)))
        leaving = send_request(served.port, {**ASK, "stream": True})
        until(lambda: served.head.answers)
        threading.Timer(0.05, lambda: reset(leaving)).start()
        whole = served.sdk.chat.completions.create(**ASK)
        assert whole.choices[0].message.content == "x" * 50
        until(lambda: served.head.answers[0].is_cancelled)
        assert not served.head.answers[1].is_cancelled


class TestSilentClient:
    async def test_client_that_does_not_read_is_gone(self) -> None:
        import asyncio

        async def stuck(_: object) -> None:
            await asyncio.sleep(60)

        with pytest.raises(ClientGone):
            await send_within(stuck, 0.02)({"type": "http.response.body"})

    def test_answer_of_a_client_that_does_not_read_is_cancelled(
        self,
        serve: Callable[..., Any],
        until: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert disconnect.SEND_TIMEOUT_S > 1
        monkeypatch.setattr(send_within, "__defaults__", (0.2,))
        served = serve(FakeHead(FakeScript(pieces=("x" * 100_000,) * 500)))
        connection = send_request(served.port, {**ASK, "stream": True})
        until(lambda: served.head.answers and served.head.answers[0].is_cancelled)
        connection.close()


class TestShutdown:
    def test_running_stream_is_told(
        self, serve_alone: Callable[..., Any], until: Callable[..., None]
    ) -> None:
        served = serve_alone(FakeHead(FakeScript(pieces=ENDLESS, piece_s=0.01)))
        with httpx.stream(
            "POST", f"{served.url}/v1/chat/completions", json={**ASK, "stream": True}, timeout=5
        ) as response:
            lines = response.iter_lines()
            next(lines)
            served.begin_stop()
            rest = [line for line in lines if line.startswith("data: ")]
        error = json.loads(rest[-1].removeprefix("data: "))["error"]
        assert error["code"] == "server_shutting_down"
        until(lambda: served.head.answers[0].is_cancelled)

    def test_whole_answer_gets_503(
        self, serve_alone: Callable[..., Any], until: Callable[..., None]
    ) -> None:
        served = serve_alone(FakeHead(FakeScript(prefill_s=60)))
        threading.Timer(0.1, served.begin_stop).start()
        response = served.http.post("/v1/chat/completions", json=ASK)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "server_shutting_down"
        until(lambda: served.head.answers[0].is_cancelled)
