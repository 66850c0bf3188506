"""The chat request as we take it: strict types, and a bound on everything a stranger may send.

Fields that are here are honoured. Known fields that we cannot honour are refused by
node/api/parameters.py; all others are ignored, because SDKs send more every month.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from protocol.limits import NAME_BYTES_MAX, STOP_COUNT_MAX

__all__ = [
    "AssistantMessage",
    "ChatMessage",
    "ChatRequest",
    "FunctionCall",
    "StreamOptions",
    "TextPart",
    "ToolCall",
]

MESSAGES_MAX = 2048
"""Messages of a conversation: agents reach a few hundred."""

CONTENT_CHARS_MAX = 4 * 2**20
"""Text of one message: a context of a million tokens."""

PARTS_MAX = 1024
"""Parts of one message's content."""

TOOL_CALLS_MAX = 128
"""Tool calls of one message, as many as OpenAI allows tools."""

STOP_CHARS_MAX = 256
"""A stop string: every one is searched for at every token."""

IDENTIFIER_CHARS_MAX = 256
"""Names and call ids."""

TOKENS_MAX = 2**31 - 1
"""No context is longer; the head checks the model's own."""

Content = Annotated[str, Field(max_length=CONTENT_CHARS_MAX)]
Identifier = Annotated[str, Field(max_length=IDENTIFIER_CHARS_MAX)]
Stop = Annotated[str, Field(min_length=1, max_length=STOP_CHARS_MAX)]


class _Strict(BaseModel):
    """No coercion: the number 1 is not the string "1"."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class TextPart(_Strict):
    """The only kind of part that a language model reads."""

    type: Literal["text"]
    text: Content


class FunctionCall(_Strict):
    """What an assistant called in an earlier turn; `arguments` is JSON in a string."""

    name: Identifier
    arguments: Content


class ToolCall(_Strict):
    """A call of an earlier turn, given back as history."""

    id: Identifier
    type: Literal["function"]
    function: FunctionCall


class _Message(_Strict):
    content: Content | Annotated[list[TextPart], Field(min_length=1, max_length=PARTS_MAX)]
    name: Identifier | None = None


class SystemMessage(_Message):
    role: Literal["system", "developer"]


class UserMessage(_Message):
    role: Literal["user"]


class ToolMessage(_Message):
    role: Literal["tool"]
    tool_call_id: Identifier


class AssistantMessage(_Strict):
    """An earlier answer. Content may be null beside tool calls, and in what SDKs give back."""

    role: Literal["assistant"]
    content: Content | Annotated[list[TextPart], Field(max_length=PARTS_MAX)] | None = None
    name: Identifier | None = None
    refusal: Content | None = None
    reasoning_content: Content | None = None
    reasoning: Content | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=TOOL_CALLS_MAX)] | None = None
    function_call: None = None


ChatMessage = Annotated[
    SystemMessage | UserMessage | ToolMessage | AssistantMessage, Field(discriminator="role")
]


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    """Padding against traffic analysis: off only."""
    continuous_usage_stats: Literal[False] | None = None


class ChatRequest(_Strict):
    """POST /v1/chat/completions. Other fields are kept in `model_extra` for parameters.py."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=NAME_BYTES_MAX)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES_MAX)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)] | None = None
    """The old name of `max_completion_tokens`, which wins."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=TOKENS_MAX)] | None = None
    """0 and -1: no limit."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=STOP_COUNT_MAX)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stream_options")
    @classmethod
    def _stream_options_need_a_stream(
        cls, options: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and not info.data.get("stream"):
            raise ValueError("stream_options is only allowed when stream is true")
        return options
