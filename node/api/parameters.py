"""Parameters of the chat request that are known and not supported: refused by name.

Silently ignoring what changes the result is worse than a 400. So every known parameter outside
node/api/schemas.py either cannot change what we answer, and is ignored, or stands in the table here
with the values under which it would change nothing.

Ignored: metadata, user, safety_identifier, prompt_cache_key and its options, service_tier, store,
verbosity, prediction (a hint of speed), parallel_tool_calls (no call is ever made), priority,
request_id, reasoning_effort and reasoning (served models take no such switch), and whatever we do
not know: SDKs add fields faster than servers learn them.
"""

from collections.abc import Mapping
from typing import Final

from node.api.errors import unsupported_parameter

__all__ = ["refuse_unsupported"]

_EMPTY: Final[tuple[object, ...]] = (None, [], {}, "")
_OFF: Final[tuple[object, ...]] = (None, False)

_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    # OpenAI's
    "n": (None, 1),
    "logprobs": _OFF,
    "top_logprobs": (None, 0),
    "logit_bias": _EMPTY,
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": _EMPTY,
    "moderation": _EMPTY,
    "web_search_options": (None,),
    "functions": _EMPTY,
    "function_call": (None, "none"),
    # vLLM's and llama.cpp's
    "repetition_penalty": (None, 1),
    "length_penalty": (None, 1),
    "stop_token_ids": _EMPTY,
    "include_stop_str_in_output": _OFF,
    "ignore_eos": _OFF,
    "min_tokens": (None, 0),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "truncate_prompt_tokens": (None,),
    "prompt_logprobs": (None,),
    "allowed_token_ids": _EMPTY,
    "bad_words": _EMPTY,
    "best_of": (None, 1),
    "use_beam_search": _OFF,
    "echo": _OFF,
    "add_generation_prompt": (None, True),
    "continue_final_message": _OFF,
    "add_special_tokens": _OFF,
    "chat_template": (None,),
    "chat_template_kwargs": _EMPTY,
    "mm_processor_kwargs": _EMPTY,
    "structured_outputs": _EMPTY,
    "guided_json": _EMPTY,
    "guided_regex": _EMPTY,
    "guided_choice": _EMPTY,
    "guided_grammar": _EMPTY,
    "grammar": _EMPTY,
    "json_schema": _EMPTY,
    "return_token_ids": _OFF,
    "thinking_token_budget": (None,),
    "repetition_detection": _EMPTY,
    "typical_p": (None, 1),
    "top_a": (None, 0),
    "mirostat": (None, 0),
    # OpenRouter's: whose machines, which other model
    "models": _EMPTY,
    "provider": _EMPTY,
    "plugins": _EMPTY,
    "transforms": _EMPTY,
}


def refuse_unsupported(extra: Mapping[str, object]) -> None:
    """Raise ApiError, 400 `unsupported_parameter`, for the first field we cannot honour."""
    for name, neutral in _NEUTRAL.items():
        if name in extra and not _is_among(extra[name], neutral):
            raise unsupported_parameter(name, _hint(name))
    _refuse_tools(extra.get("tools"), extra.get("tool_choice"))


def _refuse_tools(tools: object, choice: object) -> None:
    """Tools are fine only where none may be called: without any, or with the choice `none`."""
    if choice == "none":
        return
    if tools:
        raise unsupported_parameter("tools", " unless tool_choice is 'none'")
    if choice not in (None, "auto"):
        raise unsupported_parameter("tool_choice", " other than 'none' or 'auto' without tools")


def _is_among(value: object, neutral: tuple[object, ...]) -> bool:
    """Equality that keeps true apart from 1, as JSON does."""
    return any(
        value == candidate and isinstance(value, bool) == isinstance(candidate, bool)
        for candidate in neutral
    )


def _hint(name: str) -> str:
    return " with a value other than 1" if name == "n" else ""
