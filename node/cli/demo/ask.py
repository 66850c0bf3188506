"""The buyer's side of the demo: one streamed question through the stock `openai` client."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from node.cli.demo.pool import DemoPool
from node.errors import ConfigInvalid

__all__ = ["Asked", "ask"]

MAX_TOKENS = 300


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer and how fast it came. Rates over the tokens after the first."""

    text: str
    session_id: str
    hops: list[dict[str, Any]]
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    first_token_s: float
    tokens_per_s: float


async def ask(pool: DemoPool, prompt: str, show: Callable[[str], None]) -> Asked:
    """Stream the answer through `show`, greedily."""
    try:
        import openai
    except ImportError:
        raise ConfigInvalid(
            "The demo asks through the openai client, which is not installed.",
            hint="Install it with: pip install 'piecework[demo]'",
        ) from None
    started_s = time.monotonic()
    first_s, finish_reason = 0.0, ""
    pieces: list[str] = []
    last: dict[str, Any] = {}
    usage: Any = None
    async with openai.AsyncOpenAI(base_url=pool.base_url, api_key=pool.api_key) as client:
        stream = await client.chat.completions.create(
            model=pool.model,
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=MAX_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            last = (chunk.model_extra or {}).get("piecework") or last
            for choice in chunk.choices:
                finish_reason = choice.finish_reason or finish_reason
                if choice.delta.content:
                    first_s = first_s or time.monotonic()
                    pieces.append(choice.delta.content)
                    show(choice.delta.content)
    ended_s = time.monotonic()
    return Asked(
        text="".join(pieces),
        session_id=last["session_id"],
        hops=last["hops"],
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        finish_reason=finish_reason,
        first_token_s=first_s - started_s,
        tokens_per_s=(usage.completion_tokens - 1) / max(ended_s - first_s, 1e-9),
    )
