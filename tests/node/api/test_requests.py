"""What a request may hold: refused by name, bounded, or harmless."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from node.api.application import create_api
from node.api.parameters import refuse_unsupported
from node.api.readiness import Readiness, ReadyState
from node.head.testing import FAKE_MODEL, FakeHead

ASK: dict[str, Any] = {"model": FAKE_MODEL.id, "messages": [{"role": "user", "content": "hi"}]}
URL = "/v1/chat/completions"


@pytest.fixture(scope="module")
def client() -> Any:
    with TestClient(create_api(FakeHead(), readiness=Readiness(ReadyState.READY))) as client:
        yield client


def user(content: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def assistant(**fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", **fields}]}


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"model": "x" * 257}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [*ASK["messages"] * 2049]}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    (user(None), "messages[0].content"),
    (user(5), "messages[0].content"),
    (user([]), "messages[0].content"),
    (user("x" * (4 * 2**20 + 1)), "messages[0].content"),
    (user([{"type": "image_url", "image_url": "x"}]), "messages[0].content[0].type"),
    (user([{"type": "text"}]), "messages[0].content[0].text"),
    (assistant(content="a", function_call={"name": "x"}), "messages[0].function_call"),
    (assistant(tool_calls=[{"id": "1"}]), "messages[0].tool_calls[0].type"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"min_p": -1}, "min_p"),
    ({"top_k": -2}, "top_k"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"presence_penalty": -3}, "presence_penalty"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": "9"}, "max_completion_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": "x" * 257}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": False, "stream_options": {}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
    ),
]


class TestInvalid:
    @pytest.mark.parametrize(("changes", "param"), INVALID, ids=lambda value: str(value)[:40])
    def test_400_names_the_parameter(
        self, client: TestClient, changes: dict[str, Any], param: str
    ) -> None:
        response = client.post(URL, json={**ASK, **changes})
        assert response.status_code == 400
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] == param
        assert error["type"] == "invalid_request_error"
        assert isinstance(error["code"], str)

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b'"x"', b"[" * 100_000, b'{"seed": 1' + b"0" * 5000 + b"}", b"\xff\xfe"],
        ids=["empty", "cut", "list", "text", "deep", "digits", "binary"],
    )
    def test_body_that_is_no_object(self, client: TestClient, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        response = client.post(URL, content=body, headers=headers)
        assert response.status_code == 400
        assert isinstance(response.json()["error"]["code"], str)

    def test_body_of_another_kind(self, client: TestClient) -> None:
        """A page of another origin can send text without asking; it must not count as JSON."""
        response = client.post(URL, content=json.dumps(ASK), headers={"content-type": "text/plain"})
        assert response.status_code == 400

    def test_half_a_surrogate_pair(self, client: TestClient) -> None:
        body = json.dumps({**ASK, **user("\ud800")})
        response = client.post(URL, content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400

    def test_values_are_never_repeated(self, client: TestClient) -> None:
        for changes in (user(["private words"]), {"messages": [{"role": "private words"}]}):
            assert "private" not in client.post(URL, json={**ASK, **changes}).text

    def test_sdk_raises_bad_request(self, serve: Callable[..., Any]) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            serve().sdk.chat.completions.create(**ASK, temperature=9)
        assert caught.value.param == "temperature"
        assert caught.value.code == "invalid_value"

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(
                ["messages", "temperature", "stop", "stream", "stream_options", "n", "tools", "x"]
            ),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["role", "content", "type"]), inner, max_size=3
                    )
                ),
                max_leaves=6,
            ),
            max_size=4,
        )
    )
    def test_no_body_makes_a_500(self, client: TestClient, changes: dict[str, Any]) -> None:
        body = json.dumps({**ASK, **changes})
        response = client.post(URL, content=body, headers={"content-type": "application/json"})
        assert response.status_code in (200, 400)


UNSUPPORTED: list[tuple[str, object]] = [
    ("n", 2),
    ("n", True),
    ("logprobs", True),
    ("top_logprobs", 5),
    ("logit_bias", {"50256": -100}),
    ("response_format", {"type": "json_object"}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}),
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}),
    ("functions", [{"name": "f"}]),
    ("function_call", "auto"),
    ("modalities", ["text", "audio"]),
    ("audio", {"voice": "x", "format": "wav"}),
    ("web_search_options", {}),
    ("repetition_penalty", 1.1),
    ("ignore_eos", True),
    ("min_tokens", 5),
    ("chat_template", "{{ 1 }}"),
    ("chat_template_kwargs", {"enable_thinking": False}),
    ("continue_final_message", True),
    ("structured_outputs", {"json": {}}),
    ("models", ["other/model"]),
    ("provider", {"data_collection": "deny"}),
]

HARMLESS: list[dict[str, Any]] = [
    {"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}},
    {"logprobs": None, "tools": [], "tool_choice": "auto", "functions": None},
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
    {"response_format": {"type": "text"}, "modalities": ["text"], "parallel_tool_calls": False},
    {"metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k"},
    {"prompt_cache_retention": "24h", "service_tier": "flex", "store": True, "verbosity": "low"},
    {"reasoning_effort": "low", "prediction": {"type": "content", "content": "x"}},
    {"repetition_penalty": 1.0, "ignore_eos": False, "skip_special_tokens": True},
    {"temperature": None, "top_p": None, "stop": None, "seed": None, "max_tokens": None},
    {"stop": [], "stream": None, "stream_options": None, "top_k": -1},
    {"a_field_of_next_year": {"deep": [1]}, "client_metadata": {}},
    {"stream": False},
]


class TestParameters:
    @pytest.mark.parametrize(("name", "value"), UNSUPPORTED, ids=lambda value: str(value)[:30])
    def test_what_we_cannot_do_is_refused_by_name(
        self, client: TestClient, name: str, value: object
    ) -> None:
        response = client.post(URL, json={**ASK, name: value})
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", name)
        assert name in error["message"]

    @pytest.mark.parametrize("extra", HARMLESS, ids=lambda extra: ",".join(extra))
    def test_what_changes_nothing_is_taken(self, client: TestClient, extra: dict[str, Any]) -> None:
        response = client.post(URL, json={**ASK, **extra})
        assert response.status_code == 200, response.text

    def test_refusals_do_not_depend_on_order(self) -> None:
        refuse_unsupported({"tool_choice": "none", "tools": [1]})
        refuse_unsupported({})
