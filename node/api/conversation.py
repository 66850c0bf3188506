"""From the request's JSON to an AnswerRequest: roles, parts and history made plain."""

import json
from collections.abc import Callable

from node.api.schemas import AssistantMessage, ChatMessage, ChatRequest, TextPart, ToolCall
from node.head.answer import AnswerRequest
from protocol.sampling import SamplingParameters

__all__ = ["answer_request"]

TOP_P_MIN = 1e-6
"""The smallest step of a nucleus; 0 is legal on the wire and means the likeliest token alone."""

_SEED_MASK = 2**63 - 1


def answer_request(
    body: ChatRequest, *, api_key: str, draw_seed: Callable[[], int]
) -> AnswerRequest:
    """What the head is asked. `draw_seed` gives a seed in [0, 2**63) when the client has none."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    max_tokens = body.max_completion_tokens
    return AnswerRequest(
        model=body.model,
        messages=[_message(message) for message in body.messages],
        sampling=_sampling(body, draw_seed),
        max_tokens=body.max_tokens if max_tokens is None else max_tokens,
        stop=stop,
        api_key=api_key,
    )


def _sampling(body: ChatRequest, draw_seed: Callable[[], int]) -> SamplingParameters:
    seed = draw_seed() if body.seed is None else body.seed
    return SamplingParameters.from_floats(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else max(body.top_p, TOP_P_MIN),
        min_p=body.min_p or 0.0,
        top_k=max(body.top_k or 0, 0),
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        seed=seed & _SEED_MASK,  # OpenAI's seeds are signed, ours are not
    )


def _message(message: ChatMessage) -> dict[str, object]:
    """A message as chat templates know it; `developer` is OpenAI's newer word for `system`."""
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, object] = {"role": role, "content": _text(message.content)}
    if message.name is not None:
        plain["name"] = message.name
    if message.role == "tool":
        plain["tool_call_id"] = message.tool_call_id
    if message.role == "assistant":
        _add_history(plain, message)
    return plain


def _add_history(plain: dict[str, object], message: AssistantMessage) -> None:
    if not plain["content"] and message.refusal:
        plain["content"] = message.refusal
    reasoning = message.reasoning_content or message.reasoning
    if reasoning:
        plain["reasoning_content"] = reasoning
    if message.tool_calls:
        plain["tool_calls"] = [_tool_call(call) for call in message.tool_calls]


def _text(content: str | list[TextPart] | None) -> str:
    """Parts joined by line ends, as other servers do for templates that want one string."""
    if content is None:
        return ""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _tool_call(call: ToolCall) -> dict[str, object]:
    """Templates write the arguments out as JSON themselves, so they get the object, not its text.

    Text that is no object is handed on as it is: a model's broken call is part of the history.
    """
    arguments: object = call.function.arguments
    try:
        parsed = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        arguments = parsed
    return {
        "id": call.id,
        "type": call.type,
        "function": {"name": call.function.name, "arguments": arguments},
    }
