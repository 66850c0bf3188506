"""What `--draft` asks for: a small model beside the head, or nothing at all."""

import asyncio
import contextlib
from collections.abc import Callable

from node.app.fetching import load_or_fetch
from node.app.shard import LoadedModel, load_model, start_runner
from node.config import EngineOptions, Home
from node.engine.base import ShardSpec
from node.head.drafting.kit import NO_DRAFTING, DraftingKit
from node.head.drafting.vocabulary import check_same_tokenizer
from node.head.tokenizer import Tokenizer
from protocol.route import Span

__all__ = ["DRAFT_OFF", "start_drafting"]

DRAFT_OFF = "off"
DRAFT_KV_TOKENS = 8192
"""Tokens of all answers that the small model holds at once."""


async def start_drafting(
    draft: str,
    target: LoadedModel,
    home: Home,
    engine: EngineOptions,
    stack: contextlib.AsyncExitStack,
    tell: Callable[[str], None],
    *,
    may_fetch: bool = True,
) -> DraftingKit:
    """`draft`: a model's directory or name; "off"; or empty, for prompt lookup alone.

    Raises ConfigInvalid for a model that speaks other tokens, and ModelNotFound.
    """
    if draft == DRAFT_OFF:
        return NO_DRAFTING
    if not draft:
        return DraftingKit()
    if may_fetch:
        model = await load_or_fetch(draft, home, tell)
    else:
        model = await asyncio.to_thread(load_model, draft, home)
    tokenizer = await asyncio.to_thread(Tokenizer.from_directory, target.directory)
    await asyncio.to_thread(check_same_tokenizer, model.directory, tokenizer)
    tell(f"loading {model.manifest.name}, which drafts for {target.manifest.name}")
    spec = ShardSpec(
        directory=model.directory, span=Span(0, model.manifest.layers), embeds=True, has_head=True,
        compute_dtype=engine.compute_dtype, kv_tokens=DRAFT_KV_TOKENS, threads=engine.threads,
        device=engine.device,
    )  # fmt: skip
    runner, _ = await start_runner(spec, engine.backend, model.manifest)
    stack.push_async_callback(runner.stop)
    return DraftingKit(model=runner)
