"""The chat surface, asked by the stock SDK and read byte by byte."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from node.head.answer import FinishReason
from node.head.testing import FAKE_MODEL, FakeHead, FakeScript
from protocol.errors import ErrorCode, HopFailed, NoRoute

ASK: dict[str, Any] = {
    "model": FAKE_MODEL.id,
    "messages": [{"role": "user", "content": "How are you today"}],
}
TEXT = "Hello there, how are you?"

GOLDEN_STREAM = (
    b": keep-alive\n\n"
    b'data: {"id":"chatcmpl-session-1","object":"chat.completion.chunk","created":1795000000,'
    b'"model":"piecework/fake-1b","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    b'"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"chatcmpl-session-1","object":"chat.completion.chunk","created":1795000000,'
    b'"model":"piecework/fake-1b","choices":[{"index":0,"delta":{"content":"\xc3\xa9\\n"},'
    b'"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"chatcmpl-session-1","object":"chat.completion.chunk","created":1795000000,'
    b'"model":"piecework/fake-1b","choices":[{"index":0,"delta":{"content":"\\u2028\xf0\x9f\x9b\xb6"},'
    b'"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"chatcmpl-session-1","object":"chat.completion.chunk","created":1795000000,'
    b'"model":"piecework/fake-1b","choices":[{"index":0,"delta":{},"logprobs":null,'
    b'"finish_reason":"stop"}],"usage":null,"piecework":{"session_id":"session-1","hops":['
    b'{"peer_id":"12D3KooWFakeOne","span":"0-12","backend":"fake","path":"lan"},'
    b'{"peer_id":"12D3KooWFakeTwo","span":"12-24","backend":"fake","path":"direct"}]}}\n\n'
    b'data: {"id":"chatcmpl-session-1","object":"chat.completion.chunk","created":1795000000,'
    b'"model":"piecework/fake-1b","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2,'
    b'"total_tokens":6,"prompt_tokens_details":{"cached_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0}}}\n\n'
    b"data: [DONE]\n\n"
)


def events_of(body: str) -> list[Any]:
    """Every event's data, read as a hand-written client would: by lines, comments skipped."""
    lines = [line for line in body.split("\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    datas = [line.removeprefix("data: ") for line in lines]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


class TestWhole:
    def test_sdk_reads_the_answer(self, serve: Callable[..., Any]) -> None:
        completion = serve().sdk.chat.completions.create(**ASK)
        assert completion.choices[0].message.content == TEXT
        assert completion.choices[0].message.role == "assistant"
        assert completion.choices[0].message.refusal is None
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage.prompt_tokens == 4
        assert completion.usage.completion_tokens == 6
        assert completion.usage.total_tokens == 10
        assert completion._request_id.startswith("req_")
        assert completion.piecework["session_id"] == "session-1"
        assert completion.piecework["hops"][1]["span"] == "12-24"

    def test_usage_tells_what_the_hops_had_still(self, serve: Callable[..., Any]) -> None:
        served = serve(FakeHead(FakeScript(cached_tokens=3)))
        usage = served.sdk.chat.completions.create(**ASK).usage
        assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (4, 3)

    def test_parameters_reach_the_head(self, serve: Callable[..., Any]) -> None:
        served = serve()
        served.sdk.chat.completions.create(
            **ASK,
            max_tokens=50,
            max_completion_tokens=3,
            temperature=0.25,
            top_p=0,
            seed=-1,
            stop=["\n\n", "END"],
            frequency_penalty=-2,
            presence_penalty=1.5,
            extra_body={"top_k": 40, "min_p": 0.05},
        )
        asked = served.head.requests[0]
        assert asked.max_tokens == 3
        assert asked.stop == ("\n\n", "END")
        assert asked.api_key == "pw-test"
        sampling = asked.sampling
        assert sampling.temperature_millionths == 250_000
        assert sampling.top_p_millionths == 1
        assert sampling.min_p_millionths == 50_000
        assert sampling.top_k == 40
        assert sampling.frequency_penalty_millionths == -2_000_000
        assert sampling.presence_penalty_millionths == 1_500_000
        assert sampling.seed == 2**63 - 1

    def test_defaults_are_openais_with_a_drawn_seed(self, serve: Callable[..., Any]) -> None:
        served = serve()
        served.sdk.chat.completions.create(**ASK)
        asked = served.head.requests[0]
        assert asked.max_tokens is None
        assert asked.stop == ()
        assert asked.sampling.temperature_millionths == 1_000_000
        assert asked.sampling.top_p_millionths == 1_000_000
        assert asked.sampling.seed == 7

    def test_messages_of_every_shape_become_plain(self, serve: Callable[..., Any]) -> None:
        served = serve()
        call = {"name": "weather", "arguments": '{"city": "Bern"}'}
        broken = {"name": "weather", "arguments": '{"city'}
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "ann", "content": [part("one"), part("two")]},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "audio": None,
                "function_call": None,
                "annotations": [],
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": call},
                    {"id": "c2", "type": "function", "function": broken},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "assistant", "content": None, "refusal": "No.", "reasoning": "why"},
            {"role": "user", "content": "and now?", "cache_control": {"type": "ephemeral"}},
        ]
        served.sdk.chat.completions.create(model=FAKE_MODEL.id, messages=messages)
        parsed = {"name": "weather", "arguments": {"city": "Bern"}}
        assert list(served.head.requests[0].messages) == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one\ntwo", "name": "ann"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": parsed},
                    {"id": "c2", "type": "function", "function": broken},
                ],
            },
            {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            {"role": "assistant", "content": "No.", "reasoning_content": "why"},
            {"role": "user", "content": "and now?"},
        ]

    def test_length_and_stop_have_their_reasons(self, serve: Callable[..., Any]) -> None:
        sdk = serve().sdk
        cut = sdk.chat.completions.create(**ASK, max_tokens=2)
        assert cut.choices[0].finish_reason == "length"
        assert cut.choices[0].message.content == "Hello there"
        stopped = sdk.chat.completions.create(**ASK, stop=", how")
        assert stopped.choices[0].finish_reason == "stop"
        assert stopped.choices[0].message.content == "Hello there"

    def test_path_without_v1_and_session_header(self, serve: Callable[..., Any]) -> None:
        response = serve().http.post("/chat/completions", json=ASK)
        assert response.json()["choices"][0]["message"]["content"] == TEXT
        assert response.headers["x-piecework-session"] == "session-1"
        assert response.headers["x-request-id"].startswith("req_")
        assert int(response.headers["openai-processing-ms"]) >= 0

    def test_answer_is_closed_when_it_is_over(self, serve: Callable[..., Any]) -> None:
        served = serve()
        served.sdk.chat.completions.create(**ASK)
        assert served.head.answers[0].is_closed
        assert not served.head.answers[0].is_cancelled


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


class TestStream:
    def test_bytes_of_a_stream(self, serve: Callable[..., Any]) -> None:
        served = serve(FakeHead(FakeScript(pieces=["é\n", "\u2028🛶"])))
        body = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
        response = served.http.post("/v1/chat/completions", json=body)
        assert response.content == GOLDEN_STREAM
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-piecework-session"] == "session-1"
        assert "content-encoding" not in response.headers
        assert response.headers["x-request-id"].startswith("req_")

    def test_sdk_reads_the_stream(self, serve: Callable[..., Any]) -> None:
        served = serve()
        with served.sdk.chat.completions.create(**ASK, stream=True) as stream:
            chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
        assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant"] + [None] * 7
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons == [None] * 7 + [FinishReason.STOP]
        assert all(chunk.usage is None for chunk in chunks)
        assert chunks[-1].piecework["session_id"] == "session-1"

    def test_sdk_accumulator_agrees(self, serve: Callable[..., Any]) -> None:
        sdk = serve().sdk
        with sdk.chat.completions.stream(**ASK, stream_options={"include_usage": True}) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.content == TEXT
        assert final.choices[0].finish_reason == "stop"
        assert final.usage.completion_tokens == 6

    @pytest.mark.parametrize("asked", [None, {"include_usage": False}, {"include_usage": True}])
    def test_usage_only_when_asked_for(self, serve: Callable[..., Any], asked: Any) -> None:
        body = {**ASK, "stream": True, "stream_options": asked}
        events = events_of(serve().http.post("/v1/chat/completions", json=body).text)
        assert events.pop() == "[DONE]"
        if asked and asked["include_usage"]:
            last = events.pop()
            assert last["choices"] == []
            assert last["usage"]["total_tokens"] == 10
            assert all(chunk["usage"] is None for chunk in events)
        else:
            assert all("usage" not in chunk for chunk in events)
        assert all(len(chunk["choices"]) == 1 for chunk in events)

    def test_answer_without_text_still_has_its_form(self, serve: Callable[..., Any]) -> None:
        served = serve(FakeHead(FakeScript(pieces=[])))
        events = events_of(
            served.http.post("/v1/chat/completions", json={**ASK, "stream": True}).text
        )
        assert [event["choices"][0]["delta"] for event in events[:-1]] == [
            {"role": "assistant", "content": ""},
            {},
        ]

    def test_comments_fill_the_wait(self, serve: Callable[..., Any]) -> None:
        script = FakeScript(pieces=["a", "b"], prefill_s=0.2, piece_s=0.1)
        served = serve(FakeHead(script), keep_alive_s=0.03)
        body = {**ASK, "stream": True}
        with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
            chunks = list(response.iter_raw())
        assert chunks[0] == b": keep-alive\n\n"
        text = b"".join(chunks)
        before, _, after = text.partition(b"data: ")
        assert before.count(b": keep-alive\n\n") >= 3
        assert b": keep-alive\n\n" in after
        assert events_of(text.decode())[-1] == "[DONE]"

    def test_error_in_the_middle_is_an_event(self, serve: Callable[..., Any]) -> None:
        gone = HopFailed(1, "12D3KooW", ErrorCode.PEER_GONE, "fell silent")
        served = serve(FakeHead(FakeScript(piece_errors={2: gone})))
        response = served.http.post("/v1/chat/completions", json={**ASK, "stream": True})
        assert response.status_code == 200
        events = events_of(response.text)
        assert events[-1]["error"] == {
            "message": "hop 1 (12D3KooW) failed: fell silent",
            "type": "server_error",
            "param": None,
            "code": "provider_failed",
        }
        assert all(event["choices"][0]["finish_reason"] is None for event in events[:-1])
        assert served.head.answers[0].is_closed

        with pytest.raises(openai.APIError) as caught:
            list(served.sdk.chat.completions.create(**ASK, stream=True))
        assert caught.value.code == "provider_failed"

    def test_unknown_error_in_the_middle_tells_nothing(self, serve: Callable[..., Any]) -> None:
        served = serve(FakeHead(FakeScript(piece_errors={0: ValueError("secret /path")})))
        response = served.http.post("/v1/chat/completions", json={**ASK, "stream": True})
        assert "secret" not in response.text
        assert events_of(response.text)[-1]["error"]["code"] == "internal_error"

    def test_refusal_before_the_stream_keeps_its_status(self, serve: Callable[..., Any]) -> None:
        served = serve(FakeHead(FakeScript(opening_error=NoRoute("m", "nobody has layers 3-9"))))
        with pytest.raises(openai.APIStatusError) as caught:
            served.sdk.chat.completions.create(**ASK, stream=True)
        assert caught.value.status_code == 503

    def test_async_sdk(self, serve: Callable[..., Any]) -> None:
        import asyncio

        served = serve()

        async def ask() -> str:
            async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="k") as sdk:
                stream = await sdk.chat.completions.create(**ASK, stream=True)
                return "".join([c.choices[0].delta.content or "" async for c in stream])

        assert asyncio.run(ask()) == TEXT

    def test_rules_of_older_parsers(self, serve: Callable[..., Any]) -> None:
        """openai 2.x splits bytes at line ends of any kind; others split text as Python does."""
        served = serve(FakeHead(FakeScript(pieces=["a\r\nb", "\x85\u2029\x0b", "c"])))
        response = served.http.post("/v1/chat/completions", json={**ASK, "stream": True})
        by_bytes = [line.decode() for line in response.content.splitlines() if line]
        by_text = [line for line in response.text.splitlines() if line]
        assert by_bytes == by_text
        events = events_of("\n".join(by_text))
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
        assert text == "a\r\nb\x85\u2029\x0bc"


def test_response_is_what_httpx_calls_complete(serve: Callable[..., Any]) -> None:
    """The connection is good for a second request after a stream."""
    served = serve()
    with httpx.Client(base_url=served.url) as client:
        for _ in range(2):
            client.post("/v1/chat/completions", json={**ASK, "stream": True}).raise_for_status()
