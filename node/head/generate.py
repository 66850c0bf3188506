"""generate(): the repeated part of every answer. Prompt in, tokens out, one trip a token."""

from collections.abc import AsyncGenerator, Sequence, Set

from node.head.ends import Ends
from node.head.session import RouteSession
from protocol.frame import Result, StepKind
from protocol.session import STEPS_IN_FLIGHT_MAX

__all__ = ["PREFILL_CHUNK_TOKENS", "generate"]

PREFILL_CHUNK_TOKENS = 256
"""Rows of one prefill step: large enough for the matrix units, small enough to let decodes by."""


async def generate(
    session: RouteSession, ends: Ends, prompt: Sequence[int], *, max_tokens: int, eos: Set[int]
) -> AsyncGenerator[int, None]:
    """Yield the tokens that follow `prompt`: at most `max_tokens`, none after one of `eos`.

    The token of `eos` itself is yielded last. Raises HopFailed, SessionError or EngineError; the
    caller closes session and ends in every case.
    """
    result = await _prefill(session, ends, prompt)
    for count in range(1, max_tokens + 1):
        (token,) = await ends.draw(result)
        yield token
        if token in eos or count == max_tokens:
            return
        payload = await ends.embed([token], session.position)
        await session.send_step(
            StepKind.DECODE, payload, tokens=[token], wanted=1, dtype=ends.dtype
        )
        result = await session.receive_result()


async def _prefill(session: RouteSession, ends: Ends, prompt: Sequence[int]) -> Result:
    """Send the prompt round in chunks, several on their way at once; the last one's result.

    What the hops have of it already is not sent, and never is that all of it.
    """
    on_the_way = 0
    for start in range(session.position, len(prompt), PREFILL_CHUNK_TOKENS):
        chunk = prompt[start : start + PREFILL_CHUNK_TOKENS]
        last = start + len(chunk) == len(prompt)
        if on_the_way == STEPS_IN_FLIGHT_MAX:
            await session.receive_result()
            on_the_way -= 1
        payload = await ends.embed(chunk, start)
        await session.send_step(
            StepKind.PREFILL, payload, tokens=chunk, wanted=int(last), dtype=ends.dtype
        )
        on_the_way += 1
    for _ in range(on_the_way - 1):
        await session.receive_result()
    return await session.receive_result()
