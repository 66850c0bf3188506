"""generate(): the repeated part of every answer. Prompt in, tokens out, a trip for one or for many.

    the prompt goes round in chunks; its last row draws the first token
    until the answer is over: send what follows, wait for a result, let it decide, yield what holds

What is certain and what is drafted stands in `drafting/flight.py`, what to send next is decided in
`drafting/stepper.py`. Without drafters and loops that is one token a trip.
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence, Set

from node.head.drafting.base import Drafter, DraftingStatistics, SteppedSession
from node.head.drafting.flight import Flight, Funding
from node.head.drafting.pace import Pace
from node.head.drafting.stepper import NextStep, Stepper
from node.head.ends import Ends
from protocol.frame import Result, StepKind
from protocol.session import STEPS_IN_FLIGHT_MAX

__all__ = ["PREFILL_CHUNK_TOKENS", "WAN_PREFILL_CHUNK_TOKENS", "generate"]

PREFILL_CHUNK_TOKENS = 256
"""Rows of one prefill step: large enough for the matrix units, small enough to let decodes by."""

WAN_PREFILL_CHUNK_TOKENS = 64
"""The same where links are slow: a chunk's bytes are on one link at a time, the chunks on all."""


async def generate(
    session: SteppedSession,
    ends: Ends,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    eos: Set[int],
    drafters: Sequence[Drafter] = (),
    pace: Pace | None = None,
    loops: bool = False,
    spare_rows: int | None = None,
    chunk_tokens: int = PREFILL_CHUNK_TOKENS,
    statistics: DraftingStatistics | None = None,
    clock: Callable[[], float] = time.monotonic,
    funding: Callable[[], Funding] | None = None,
) -> AsyncGenerator[int, None]:
    """Yield the tokens that follow `prompt`: at most `max_tokens`, none after one of `eos`.

    The token of `eos` itself is yielded last. The tokens are the same with any `drafters`, which
    are opened and closed here, with `pace`, which says how much to draft and may know more than a
    new one, and with `loops` (open routes: the last hop may feed on by itself). `spare_rows`: how
    many rows may run in vain, where they are paid for; `funding` says so anew before each step,
    where an answer is paid for as it comes. `statistics` is filled in.

    Raises HopFailed, SessionError or EngineError; the caller closes session and ends in every case.
    """
    flight = Flight(prompt, max_tokens=max_tokens, eos=eos, spare_rows=spare_rows)
    async with Stepper(
        session, flight, drafters, pace or Pace(),
        loops=loops, statistics=statistics or DraftingStatistics(), clock=clock, funding=funding,
    ) as stepper:  # fmt: skip
        result: Result | None = await _prefill(session, ends, prompt, chunk_tokens, stepper)
        while True:
            if result is not None:
                fed_on = result.loop > 0
                verdict = flight.accept(await ends.draw(result), fed_on=fed_on)
                stepper.learn(verdict, fed_on=fed_on)
                for token in verdict.tokens:
                    yield token
                if flight.is_over:
                    return
                if verdict.truncate_to is not None:
                    await session.truncate(verdict.truncate_to)
            while (step := await stepper.next_step()) is not None:
                await _send(session, ends, step)
            result = await stepper.receive()


async def _send(session: SteppedSession, ends: Ends, step: NextStep) -> None:
    """Send a step whose every row is wanted."""
    payload = await ends.embed(step.tokens, step.position)
    kind = StepKind.VERIFY if step.drafted else StepKind.DECODE
    wanted = len(step.tokens)
    if step.loop:
        await session.send_step(
            kind, payload, tokens=step.tokens, wanted=wanted, dtype=ends.dtype, loop=step.loop
        )
    else:
        await session.send_step(kind, payload, tokens=step.tokens, wanted=wanted, dtype=ends.dtype)


async def _prefill(
    session: SteppedSession,
    ends: Ends,
    prompt: Sequence[int],
    chunk_tokens: int,
    stepper: Stepper,
) -> Result:
    """Send the prompt round in chunks, several on their way at once; the last one's result.

    What the hops have of it already is not sent, and never is that all of it.
    """
    on_the_way = 0
    for start in range(session.position, len(prompt), chunk_tokens):
        chunk = prompt[start : start + chunk_tokens]
        last = start + len(chunk) == len(prompt)
        if on_the_way == STEPS_IN_FLIGHT_MAX:
            await session.receive_result()
            stepper.chunk_came()
            on_the_way -= 1
        stepper.chunk_sent(len(chunk))
        payload = await ends.embed(chunk, start)
        await session.send_step(
            StepKind.PREFILL, payload, tokens=chunk, wanted=int(last), dtype=ends.dtype
        )
        on_the_way += 1
    for _ in range(on_the_way - 1):
        await session.receive_result()
        stepper.chunk_came()
    return await session.receive_result()
