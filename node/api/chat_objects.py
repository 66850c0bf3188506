"""The objects of a chat answer, field by field as in OpenAI's specification 2.3.0.

Ours alone is `piecework`: which session answered and where its parts were computed. It stands on
the whole answer, or on a stream's last chunk with a choice; clients skip what they do not know.
"""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from node.head.answer import Answer, FinishReason

__all__ = ["ChatChunk", "ChatChunks", "ChatCompletion", "chat_completion"]


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    reasoning_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Hop(TypedDict):
    """One machine's part: `span` is the layers it ran, `path` how it was reached."""

    peer_id: str
    span: str
    backend: str
    path: str


class Piecework(TypedDict):
    """`stopped_by`: what else than the request ended the answer: why no more of it could be paid,
    by the codes of a refusal (`insufficient_funds`, `funds_in_flight`, `key_limit`)."""

    session_id: str
    hops: list[Hop]
    stopped_by: NotRequired[str]


class ChatAnswerMessage(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    index: int
    message: ChatAnswerMessage
    logprobs: None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    piecework: Piecework


class ChatDelta(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


class ChatChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: None
    finish_reason: FinishReason | None


class ChatChunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    piecework: NotRequired[Piecework]


def chat_completion(answer: Answer, text: str, *, created_s: int) -> ChatCompletion:
    """A finished answer as one object."""
    return {
        "id": _completion_id(answer),
        "object": "chat.completion",
        "created": created_s,
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": _finish_reason(answer),
            }
        ],
        "usage": _usage(answer),
        "piecework": _piecework(answer),
    }


class ChatChunks:
    """The chunks of one stream; all share id, time and model.

    With `include_usage` every chunk has `usage: null` and one more follows with the numbers and
    without a choice; without it, none has the key.
    """

    def __init__(self, answer: Answer, *, created_s: int, include_usage: bool) -> None:
        self._answer = answer
        self._created_s = created_s
        self._include_usage = include_usage

    def first(self) -> ChatChunk:
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> ChatChunk:
        return self._chunk({"content": text})

    def last(self) -> list[ChatChunk]:
        """Why it ended, exactly once; then the usage if it was asked for."""
        ending = self._chunk({}, _finish_reason(self._answer))
        ending["piecework"] = _piecework(self._answer)
        if not self._include_usage:
            return [ending]
        usage = self._envelope([])
        usage["usage"] = _usage(self._answer)
        return [ending, usage]

    def _chunk(self, delta: ChatDelta, reason: FinishReason | None = None) -> ChatChunk:
        return self._envelope(
            [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        )

    def _envelope(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        chunk: ChatChunk = {
            "id": _completion_id(self._answer),
            "object": "chat.completion.chunk",
            "created": self._created_s,
            "model": self._answer.model,
            "choices": choices,
        }
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def _completion_id(answer: Answer) -> str:
    return f"chatcmpl-{answer.session_id}"


def _finish_reason(answer: Answer) -> FinishReason:
    if answer.finish_reason is None:
        raise RuntimeError("the answer's pieces ended without a reason")
    return answer.finish_reason


def _usage(answer: Answer) -> Usage:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _piecework(answer: Answer) -> Piecework:
    piecework: Piecework = {
        "session_id": answer.session_id,
        "hops": [
            {
                "peer_id": hop.peer_id,
                "span": hop.span,
                "backend": hop.backend,
                "path": hop.path_kind,
            }
            for hop in answer.hops
        ],
    }
    if answer.stopped_by is not None:
        piecework["stopped_by"] = answer.stopped_by
    return piecework
