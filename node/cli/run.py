"""`piecework run MODEL PROMPT`."""

import contextlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from node.app.gateway import start_head
from node.app.local import LocalConfig, local_head
from node.cli.options import EngineTexts, choose, engine_options, home_path
from node.cli.program import fail, run_task, tell
from node.config import GatewayConfig, NetworkOptions
from node.head.answer import Answer, AnswerRequest
from node.head.service import HeadService
from protocol.errors import PieceworkError
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["run_once"]

KV_TOKENS = 8192
"""One conversation at a time."""


def run_once(
    *,
    model: str,
    prompt: str,
    market: str,
    key: str,
    max_tokens: int,
    temperature: float,
    seed: int,
    home: Path | None,
    engine: EngineTexts,
    wire: str,
    draft: str,
    as_json: bool,
) -> None:
    """Ask one question of a head in this process."""
    try:
        options = engine_options(engine)
        wire_dtype = choose(WireDtype, wire, "--wire")
        sampling = SamplingParameters.from_floats(temperature=temperature, seed=seed)
    except PieceworkError as error:
        fail(error)
    pool = GatewayConfig(
        home_path(home), market, (model,), "127.0.0.1", 0, NetworkOptions("::", 0), options,
        wire_dtype, draft,
    )  # fmt: skip
    alone = LocalConfig(home_path(home), model, options, wire_dtype, KV_TOKENS, draft)

    async def ask(service: HeadService, name: str) -> None:
        request = AnswerRequest(
            name, [{"role": "user", "content": prompt}], sampling, max_tokens, api_key=key
        )
        await _print_answer(service, request, as_json=as_json)

    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if market:
                service, models, _ = await start_head(pool, stack, tell)
                await ask(service, models[0].manifest.name)
            else:
                await ask(*await stack.enter_async_context(local_head(alone, tell)))

    run_task(work)


async def _print_answer(service: HeadService, request: AnswerRequest, *, as_json: bool) -> None:
    """Text to stdout as it comes, and a line about it to stderr; or one JSON object at the end."""
    started_s = time.monotonic()
    answer = await service.answer(request)
    pieces: list[str] = []
    first_s = started_s
    try:
        async for delta in answer:
            if not pieces:
                first_s = time.monotonic()
            pieces.append(delta.text)
            if not as_json:
                sys.stdout.write(delta.text)
                sys.stdout.flush()
    finally:
        await answer.aclose()
    ended_s = time.monotonic()
    if as_json:
        sys.stdout.write(json.dumps(_report(answer, "".join(pieces), ended_s - started_s)) + "\n")
        return
    sys.stdout.write("\n")
    rate = (answer.completion_tokens - 1) / max(ended_s - first_s, 1e-9)
    route = " → ".join(f"{hop.peer_id[-8:]} [{hop.span}] {hop.backend}" for hop in answer.hops)
    travel = answer.travel
    trips = f"{travel.trips} trips" + (f", {travel.repairs} repairs" if travel.repairs else "")
    tell(f"{answer.completion_tokens} tokens in {trips}, {rate:.1f} tokens/s, {route}")


def _report(answer: Answer, text: str, elapsed_s: float) -> dict[str, object]:
    return {
        "schema": 1,
        "model": answer.model,
        "text": text,
        "session_id": answer.session_id,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "elapsed_s": round(elapsed_s, 4),
        "travel": asdict(answer.travel),
        "hops": [
            {
                "peer_id": hop.peer_id,
                "span": hop.span,
                "backend": hop.backend,
                "path_kind": hop.path_kind,
            }
            for hop in answer.hops
        ],
    }
