"""The answers that every killed run must give: the unsplit model in one process, no route."""

import hashlib
from pathlib import Path

import numpy as np

from benchmarks.kills.cases import MANNERS, QUESTIONS
from benchmarks.kills.channel import Message, connect
from benchmarks.kills.shards import WHOLE, Shards
from node.engine.base import Engine, Output, StepItem
from node.head.detokenizer import TextStream
from node.head.generate import PREFILL_CHUNK_TOKENS
from node.head.models import HeadModel
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["digest", "run"]


def digest(pieces: list[tuple[str, int]]) -> str:
    """Of an answer's deltas, text and token counts: equal only where every token is.

    Neither a head nor an API shows token ids; two sequences of ids that give the same pieces of
    text at the same counts would have to differ in invisible tokens alone.
    """
    return hashlib.sha256(repr(pieces).encode()).hexdigest()[:16]


async def run(order: Message, control: Path, shards: Shards) -> None:
    """Tell the digest and length of every (question, manner), then end."""
    channel = await connect(control)
    model = HeadModel.load(shards.directory, shards.manifest, None, now_s=0)
    engine = shards.engine(WHOLE)
    references = []
    for question in order["questions"]:
        text = model.template.render([{"role": "user", "content": QUESTIONS[question]}])
        prompt = model.tokenizer.encode(text)
        for manner in order["manners"]:
            tokens = _tokens(model, engine, prompt, MANNERS[manner], order["max_tokens"])
            references.append(
                [question, manner, digest(_pieces(model, tokens)), len(tokens), len(prompt)]
            )
    channel.send({"hello": order["name"], "life": order["life"], "references": references})
    async for _ in channel.messages():
        return


def _tokens(
    model: HeadModel, engine: Engine, prompt: list[int], sampling: SamplingParameters, limit: int
) -> list[int]:
    engine.open(1, capacity_tokens=len(prompt) + limit, sampling=sampling)
    tokens: list[int] = []
    waiting, position = prompt, 0
    while len(tokens) < limit:
        rows, waiting = waiting[:PREFILL_CHUNK_TOKENS], waiting[PREFILL_CHUNK_TOKENS:]
        item = StepItem(
            1, position, len(rows), int(not waiting), Output.TOKENS, WireDtype.FP32,
            tokens=np.asarray(rows, dtype=np.int32),
        )  # fmt: skip
        (result,) = engine.step([item])
        if isinstance(result, Exception):
            raise result
        assert result.tokens is not None
        position += len(rows)
        if waiting:
            continue
        waiting = [int(result.tokens[0])]
        tokens += waiting
        if waiting[0] in model.tokenizer.eos_ids:
            break
    engine.close(1)
    return tokens


def _pieces(model: HeadModel, tokens: list[int]) -> list[tuple[str, int]]:
    """As a head's answer cuts them."""
    stream, pieces, silent = TextStream(model.tokenizer, ()), [], 0
    for token in tokens:
        silent += 1
        if text := stream.push(token):
            pieces.append((text, silent))
            silent = 0
    if (rest := stream.flush()) or silent:
        pieces.append((rest, silent))
    return pieces
