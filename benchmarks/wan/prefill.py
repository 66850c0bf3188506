"""Time to first token of a long prompt over narrow uplinks, against the bytes it must move.

The bound: every row through one uplink, and each link's delay. Not in it: headers (5 % of what an
uplink carries), computing, and that a chunk must be at a hop whole before it runs there.
"""

from typing import Final

from benchmarks.wan.bed import Bed, Request
from benchmarks.wan.delay import Conditions
from benchmarks.wan.engines import EngineChoice
from benchmarks.wan.figures import Figures, tell
from benchmarks.wan.formula import Formula
from node.head.generate import WAN_PREFILL_CHUNK_TOKENS
from protocol.tensor import WireDtype

__all__ = ["measure"]

ROUNDS: Final = 3
PROMPT_TOKENS: Final = 2000
PROMPT: Final = tuple(5 + n % 1000 for n in range(PROMPT_TOKENS))
HOME: Final = Conditions(delay_ms=30, uplink_mbit=20)
MARK: Final = "<= 1.15 x"


async def measure(figures: Figures) -> None:
    """About two minutes."""
    async with Bed.of(EngineChoice("8B")) as bed:
        await bed.set(HOME)
        await _first_token(bed, figures, "", rounds=1, is_cold=True)
        for sealed in (False, True):
            await bed.answer(Request(PROMPT, 1, sealed=sealed))
            await _first_token(bed, figures, MARK, sealed=sealed)
            await _first_token(bed, figures, "", sealed=sealed, chunk_tokens=32, rounds=2)
        await _first_token(bed, figures, "", chunk_tokens=256, rounds=1)
        await _first_token(bed, figures, "", wire=WireDtype.BF16, rounds=1)
        await bed.check_paths()
    async with Bed.of(EngineChoice("70B")) as bed:
        await bed.set(HOME)
        for sealed in (False, True):
            await bed.answer(Request(PROMPT[:500], 1, sealed=sealed))
            await _first_token(bed, figures, MARK, sealed=sealed, rounds=2)


async def _first_token(
    bed: Bed,
    figures: Figures,
    mark: str,
    *,
    sealed: bool = False,
    wire: WireDtype = WireDtype.INT8B32,
    chunk_tokens: int = WAN_PREFILL_CHUNK_TOKENS,
    rounds: int = ROUNDS,
    is_cold: bool = False,
) -> None:
    """With the session open, from the prompt's first chunk to the first token at the head.

    `is_cold`: over connections that have carried nothing yet.
    """
    request = Request(PROMPT, 1, sealed=sealed, wire=wire, chunk_tokens=chunk_tokens)
    bound_s = Formula(bed.choice, bed.conditions, wire).prompt_s(PROMPT_TOKENS, links=bed.hops + 1)
    kind = "sealed" if sealed else "open"
    shape = bed.choice.shape
    what = f"{shape.name} {wire} {kind}, chunks of {request.chunk_tokens}"
    what += ", cold connections" if is_cold else ""
    took = []
    for _ in range(rounds):
        with figures.watching(f"first token {what}"):
            answer = await bed.answer(request)
        took.append(answer.first_s)
        tell(f"first token {what}: {answer.first_s:.2f} s, bound {bound_s:.2f} s")
    workload = f"{PROMPT_TOKENS} tokens, {what}, {bed.hops} hops, {bed.conditions}"
    figures.add("time to first token", workload, took, "s")
    figures.add(
        "time to first token against the bytes", workload, [t / bound_s for t in took], "x", mark
    )
