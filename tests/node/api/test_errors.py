"""Every refusal as the SDK meets it, and the table from our errors to statuses."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest

from node.api.errors import problem_of
from node.engine.errors import EngineDied, ModelNotFound, OutOfKV, QueueFull
from node.errors import (
    ConfigInvalid,
    KeyRefused,
    MarketRefused,
    MarketUnreachable,
    ModelUnknown,
    PaymentRequired,
    PromptInvalid,
    PromptTooLong,
)
from node.head.testing import FAKE_MODEL, FakeHead, FakeScript
from protocol.errors import (
    EngineError,
    ErrorCode,
    HopFailed,
    LocalProtocolError,
    NoRoute,
    RemoteProtocolError,
    RouteInvalid,
    SessionError,
    SignatureInvalid,
)

ASK: dict[str, Any] = {"model": FAKE_MODEL.id, "messages": [{"role": "user", "content": "hi"}]}


def hop_failed(code: ErrorCode) -> HopFailed:
    return HopFailed(0, "12D3KooW", code, "reason")


TABLE: list[tuple[BaseException, int, str]] = [
    (KeyRefused(401, "key", "wrong key"), 401, "invalid_api_key"),
    (PaymentRequired(402, "insufficient_funds", "too little"), 402, "insufficient_funds"),
    (PaymentRequired(402, "key_limit", "too little"), 402, "key_limit"),
    (PaymentRequired(402, "unknown", "answered 402"), 402, "payment_required"),
    (PaymentRequired(402, "funds_in_flight", "held"), 429, "funds_in_flight"),
    (MarketRefused(403, "model_not_allowed", "no"), 403, "model_not_allowed"),
    (MarketRefused(429, "slow_down", "no"), 429, "rate_limit_exceeded"),
    (MarketRefused(500, "whatever", "no"), 502, "marketplace_failed"),
    (MarketUnreachable("timeout"), 503, "marketplace_unreachable"),
    (ModelUnknown("x/y"), 404, "model_not_found"),
    (PromptTooLong(9, 9, 16), 400, "context_length_exceeded"),
    (PromptInvalid("roles"), 400, "invalid_prompt"),
    (NoRoute("m", "layers 3-9"), 503, "no_route"),
    (hop_failed(ErrorCode.PEER_GONE), 502, "provider_failed"),
    (hop_failed(ErrorCode.UNPAID), 502, "provider_failed"),
    (hop_failed(ErrorCode.NO_CAPACITY), 503, "overloaded"),
    (hop_failed(ErrorCode.TIMED_OUT), 504, "provider_timed_out"),
    (hop_failed(ErrorCode.SHUTTING_DOWN), 503, "provider_shutting_down"),
    (hop_failed(ErrorCode.CONTEXT_TOO_LONG), 400, "context_length_exceeded"),
    (SessionError("broken"), 502, "provider_failed"),
    (OutOfKV("full"), 503, "overloaded"),
    (QueueFull("full"), 503, "overloaded"),
    (ModelNotFound("/home/me/models/x"), 404, "model_not_found"),
    (EngineDied("pid 7 on /dev/x"), 500, "engine_failed"),
    (EngineError("cuda"), 500, "engine_failed"),
    (RouteInvalid("layers 3-9"), 502, "route_invalid"),
    (RemoteProtocolError("bad frame"), 502, "provider_error"),
    (SignatureInvalid("receipt"), 502, "provider_error"),
    (LocalProtocolError("our bug"), 500, "internal_error"),
    (ConfigInvalid("/etc/secret"), 500, "internal_error"),
    (ZeroDivisionError("secret"), 500, "internal_error"),
    (asyncio.CancelledError(), 503, "server_shutting_down"),
]


class TestProblemOf:
    @pytest.mark.parametrize(("error", "status", "code"), TABLE, ids=lambda value: str(value)[:24])
    def test_table(self, error: BaseException, status: int, code: str) -> None:
        problem = problem_of(error)
        assert (problem.status, problem.code) == (status, code)
        assert set(problem.body["error"]) == {"message", "type", "param", "code"}
        assert problem.message
        assert ("Retry-After" in problem.headers) == (status in (429, 503))
        assert (problem.headers.get("x-should-retry") == "false") == (status == 402)

    @pytest.mark.parametrize("error", [e for e, status, _ in TABLE if status == 500])
    def test_nothing_of_this_machine_is_told(self, error: BaseException) -> None:
        assert str(error) not in problem_of(error).message


class TestSDK:
    def test_wrong_key(self, serve: Callable[..., Any]) -> None:
        sdk = serve(FakeHead(keys=frozenset({"right"}))).sdk
        with pytest.raises(openai.AuthenticationError) as caught:
            sdk.chat.completions.create(**ASK)
        assert caught.value.code == "invalid_api_key"
        assert caught.value.request_id.startswith("req_")
        assert sdk.with_options(api_key="right").chat.completions.create(**ASK).id

    def test_unknown_model(self, serve: Callable[..., Any]) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            serve().sdk.chat.completions.create(**{**ASK, "model": "no/such"})
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"
        assert "no/such" in caught.value.message

    def test_too_long(self, serve: Callable[..., Any]) -> None:
        served = serve(FakeHead(FakeScript(opening_error=PromptTooLong(5000, 10, 4096))))
        with pytest.raises(openai.BadRequestError) as caught:
            served.sdk.chat.completions.create(**ASK)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.type == "invalid_request_error"

    @pytest.mark.parametrize(
        ("code", "hint"),
        [
            ("insufficient_funds", "Top up, or ask for fewer tokens."),
            ("key_limit", "Raise the key's limit, or use another key."),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_no_money_is_not_asked_again(
        self, serve: Callable[..., Any], code: str, hint: str, stream: bool
    ) -> None:
        error = PaymentRequired(402, code, "Too little.", hint=hint)
        served = serve(FakeHead(FakeScript(opening_error=error)))
        with pytest.raises(openai.APIStatusError) as caught:
            served.sdk.with_options(max_retries=2).chat.completions.create(**ASK, stream=stream)
        assert caught.value.status_code == 402
        assert (caught.value.code, caught.value.type) == (code, "billing_error")
        assert hint in caught.value.message
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(served.head.requests) == 1

    @pytest.mark.parametrize("stream", [False, True])
    def test_money_that_comes_back_is_asked_for_again(
        self, serve: Callable[..., Any], stream: bool
    ) -> None:
        error = PaymentRequired(402, "funds_in_flight", "Held.", hint="Try again in 1 s.")
        served = serve(FakeHead(FakeScript(opening_error=error)))
        with pytest.raises(openai.RateLimitError) as caught:
            served.sdk.with_options(max_retries=1).chat.completions.create(**ASK, stream=stream)
        assert (caught.value.code, caught.value.type) == ("funds_in_flight", "rate_limit_error")
        assert caught.value.response.headers["retry-after"] == "1"
        assert len(served.head.requests) == 2

    def test_no_route_says_when_to_come_back(self, serve: Callable[..., Any]) -> None:
        served = serve(FakeHead(FakeScript(opening_error=NoRoute("m", "nobody"))))
        with pytest.raises(openai.InternalServerError) as caught:
            served.sdk.chat.completions.create(**ASK)
        assert caught.value.status_code == 503
        assert caught.value.code == "no_route"
        assert 0 < int(caught.value.response.headers["retry-after"]) <= 120

    def test_provider_dies_before_the_first_token(self, serve: Callable[..., Any]) -> None:
        error = hop_failed(ErrorCode.PEER_GONE)
        served = serve(FakeHead(FakeScript(piece_errors={0: error})))
        with pytest.raises(openai.InternalServerError) as caught:
            served.sdk.chat.completions.create(**ASK)
        assert caught.value.status_code == 502
        assert "x-should-retry" not in caught.value.response.headers
        assert served.head.answers[0].is_closed

    def test_provider_dies_later_and_work_is_not_bought_twice(
        self, serve: Callable[..., Any]
    ) -> None:
        error = hop_failed(ErrorCode.PEER_GONE)
        served = serve(FakeHead(FakeScript(piece_errors={3: error})))
        with pytest.raises(openai.InternalServerError) as caught:
            served.sdk.with_options(max_retries=2).chat.completions.create(**ASK)
        assert caught.value.status_code == 502
        assert len(served.head.requests) == 1

    def test_our_own_bug_is_a_plain_500(
        self, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        served = serve(FakeHead(FakeScript(opening_error=ValueError("a secret"))))
        with pytest.raises(openai.InternalServerError) as caught:
            served.sdk.chat.completions.create(**ASK)
        assert caught.value.status_code == 500
        assert "secret" not in caught.value.response.text
        assert "Traceback" not in caught.value.response.text
        request_id = caught.value.request_id
        assert request_id.startswith("req_")
        logged = [record for record in caplog.records if request_id in record.getMessage()]
        assert logged[0].exc_info is not None
