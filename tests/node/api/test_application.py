"""Models, bills, health, keys, and the layers round every request."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from node.api.readiness import ReadyState
from node.head.answer import Bill, ModelCard
from node.head.testing import FAKE_MODEL, FakeHead, FakeScript

ASK: dict[str, Any] = {"model": FAKE_MODEL.id, "messages": [{"role": "user", "content": "hi"}]}
FREE = ModelCard(id="free", context_tokens=128, created_s=5, available=False, details={"layers": 3})


class TestModels:
    def test_sdk_lists_them(self, serve: Callable[..., Any]) -> None:
        models = list(serve(FakeHead(models=[FAKE_MODEL, FREE])).sdk.models.list())
        assert [model.id for model in models] == [FAKE_MODEL.id, "free"]
        priced, free = (model.model_dump() for model in models)
        assert priced["object"] == "model"
        assert priced["owned_by"] == "piecework"
        assert priced["created"] == FAKE_MODEL.created_s
        assert priced["context_length"] == 4096
        assert priced["pricing"] == {"prompt": "0.00000015", "completion": "0.0000006"}
        assert free["pricing"] is None
        assert free["available"] is False
        assert free["piecework"] == {"layers": 3}

    def test_sdk_retrieves_one_with_a_slash_in_its_name(self, serve: Callable[..., Any]) -> None:
        served = serve()
        assert served.sdk.models.retrieve(FAKE_MODEL.id).id == FAKE_MODEL.id
        assert served.http.get(f"/v1/models/{FAKE_MODEL.id}").json()["id"] == FAKE_MODEL.id

    def test_unknown_one_is_not_found(self, serve: Callable[..., Any]) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            serve().sdk.models.retrieve("no/such")
        assert caught.value.code == "model_not_found"

    @pytest.mark.parametrize(
        ("nanos", "text"), [(0, "0"), (1, "0.000000000000001"), (10**15, "1"), (2 * 10**16, "20")]
    )
    def test_prices_are_exact(self, serve: Callable[..., Any], nanos: int, text: str) -> None:
        card = ModelCard("m", 1, 1, True, nanos, nanos)
        (model,) = serve(FakeHead(models=[card])).http.get("/v1/models").json()["data"]
        assert model["pricing"] == {"prompt": text, "completion": text}


class TestGenerations:
    def test_bill_in_nanos_and_text(self, serve: Callable[..., Any]) -> None:
        head = FakeHead(bills={"session-1": Bill(charged_nanos=12_345, settled=False)})
        response = serve(head).http.get("/v1/generations/session-1")
        assert response.json() == {
            "id": "session-1",
            "charged_nanos": 12345,
            "charged_usd": "0.000012345",
            "settled": False,
        }

    def test_without_money_or_unknown(self, serve: Callable[..., Any]) -> None:
        response = serve().http.get("/v1/generations/session-1")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "generation_not_found"

    def test_key_is_passed_on(self, serve: Callable[..., Any]) -> None:
        http = serve(FakeHead(keys=frozenset({"right"}), bills={"s": Bill(1, True)})).http
        assert http.get("/v1/generations/s").status_code == 401
        headers = {"authorization": "Bearer right"}
        assert http.get("/v1/generations/s", headers=headers).status_code == 200


class TestKeys:
    @pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", "abc"])
    def test_missing_key_is_401_where_one_is_required(
        self, serve: Callable[..., Any], header: str | None
    ) -> None:
        served = serve(require_key=True)
        headers = {} if header is None else {"authorization": header}
        for response in (
            served.http.post("/v1/chat/completions", json=ASK, headers=headers),
            served.http.post("/v1/chat/completions", json={}, headers=headers),
            served.http.get("/v1/models", headers=headers),
            served.http.get(f"/models/{FAKE_MODEL.id}", headers=headers),
            served.http.get("/v1/generations/x", headers=headers),
        ):
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        assert served.head.requests == []

    def test_key_is_optional_elsewhere(self, serve: Callable[..., Any]) -> None:
        served = serve()
        served.http.post("/v1/chat/completions", json=ASK)
        served.http.post("/v1/chat/completions", json=ASK, headers={"authorization": "bearer k"})
        assert [asked.api_key for asked in served.head.requests] == ["", "k"]

    def test_huge_key_is_refused(self, serve: Callable[..., Any]) -> None:
        headers = {"authorization": f"Bearer {'k' * 600}"}
        assert serve().http.get("/v1/models", headers=headers).status_code == 401

    def test_health_needs_none(self, serve: Callable[..., Any]) -> None:
        assert serve(require_key=True).http.get("/health").status_code == 200


class TestHealth:
    @pytest.mark.parametrize(
        ("state", "status"),
        [(ReadyState.READY, 200), (ReadyState.STARTING, 503), (ReadyState.DRAINING, 503)],
    )
    def test_ready_and_alive(
        self, serve: Callable[..., Any], state: ReadyState, status: int
    ) -> None:
        served = serve()
        served.readiness.state = state
        assert served.http.get("/health").status_code == status
        alive = served.http.get("/healthz")
        assert alive.status_code == 200
        assert alive.json() == {"status": "ok", "state": state.value}


class TestDrain:
    def test_new_answers_are_refused_and_running_ones_end(self, serve: Callable[..., Any]) -> None:
        served = serve(FakeHead(FakeScript(pieces=["a"] * 20, piece_s=0.005)))
        with served.sdk.chat.completions.create(**ASK, stream=True) as stream:
            chunks = iter(stream)
            next(chunks)
            served.readiness.state = ReadyState.DRAINING
            refused = served.http.post("/v1/chat/completions", json=ASK)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "server_shutting_down"
            assert "retry-after" in refused.headers
            assert refused.headers["x-request-id"].startswith("req_")
            assert list(chunks)[-1].choices[0].finish_reason == "stop"
        assert served.http.get("/v1/models").status_code == 200


class TestLayers:
    def test_every_response_has_an_id_and_a_time(self, serve: Callable[..., Any]) -> None:
        served = serve(FakeHead(FakeScript(opening_error=ValueError())), any_origin=True)
        responses = [
            served.http.get("/nowhere"),
            served.http.get("/v1/chat/completions"),
            served.http.post("/v1/chat/completions", json={}),
            served.http.post("/v1/chat/completions", json=ASK),
            served.http.get("/health"),
            served.http.options("/v1/models", headers=PREFLIGHT),
        ]
        assert [response.status_code for response in responses] == [404, 405, 400, 500, 200, 200]
        ids = {response.headers["x-request-id"] for response in responses}
        assert len(ids) == len(responses)
        assert all(re.fullmatch(r"req_[0-9a-f]{32}", request_id) for request_id in ids)
        assert all(response.headers["openai-processing-ms"].isdigit() for response in responses)
        for response in responses[:4]:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    def test_body_past_its_bound_is_413(self, serve: Callable[..., Any]) -> None:
        served = serve(body_bytes_max=1000)
        headers = {"content-type": "application/json"}

        def chunks() -> Iterator[bytes]:
            for _ in range(20):
                yield b" " * 100

        for body in (b" " * 1001, b" " * 3_000_000, chunks()):
            response = served.http.post("/v1/chat/completions", content=body, headers=headers)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "body_too_large"
        assert served.http.post("/v1/chat/completions", json=ASK).status_code == 200

    def test_any_origin_without_credentials(self, serve: Callable[..., Any]) -> None:
        http = serve(any_origin=True).http
        preflight = http.options("/v1/chat/completions", headers=PREFLIGHT)
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        response = http.post("/v1/chat/completions", json=ASK, headers={"origin": "https://a.b"})
        assert response.headers["access-control-allow-origin"] == "*"
        exposed = response.headers["access-control-expose-headers"]
        for name in ("x-request-id", "retry-after", "x-ratelimit-remaining-tokens"):
            assert name in exposed
        for answer in (preflight, response):
            assert "access-control-allow-credentials" not in answer.headers

    def test_no_origin_by_default(self, serve: Callable[..., Any]) -> None:
        http = serve().http
        assert http.options("/v1/chat/completions", headers=PREFLIGHT).status_code == 405
        response = http.post("/v1/chat/completions", json=ASK, headers={"origin": "https://a.b"})
        assert "access-control-allow-origin" not in response.headers

    def test_openapi_names_our_errors_and_no_422(self, serve: Callable[..., Any]) -> None:
        spec = serve().http.get("/openapi.json").json()
        chat = spec["paths"]["/v1/chat/completions"]["post"]
        assert set(chat["responses"]) == {"200", "4XX", "5XX"}
        assert "/chat/completions" not in spec["paths"]


PREFLIGHT = {
    "origin": "https://a.b",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}
