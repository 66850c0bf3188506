"""Many sessions on one route: what all get together, against one, and as links grow longer.

N sessions of one token a trip can have no more than N / L together, L one trip. So whether longer
links cost anything is asked where something else bounds the total: machines that take long for a
row. What fast machines lose is told beside it, with that bound.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from benchmarks.wan.bed import Answer, Bed, Request
from benchmarks.wan.delay import Conditions
from benchmarks.wan.engines import EngineChoice
from benchmarks.wan.figures import Figures, tell
from benchmarks.wan.formula import Formula
from benchmarks.wan.shapes import Curve
from protocol.tensor import WireDtype

__all__ = ["measure"]

ROUNDS: Final = 2
SESSIONS: Final = 32
PROMPT: Final = tuple(range(100, 116))
TOKENS: Final = 48
SKIP: Final = 4
"""Tokens of each answer before the total is timed."""
STAGGER_S: Final = 0.03
SLOW: Final = Curve(20.0, 20.0)
"""A machine that takes 20 ms for every row: below 50 rows a second, however many sessions."""
SLOW_PROMPT: Final = PROMPT[:4]
SLOW_TOKENS: Final = 16


async def measure(figures: Figures) -> None:
    """About two minutes."""
    async with Bed.of(EngineChoice("8B")) as bed:
        await bed.set(Conditions(delay_ms=30))
        await bed.answer(Request(PROMPT, TOKENS))
        await _against_one(bed, figures)
        await bed.set(Conditions(delay_ms=100))
        await _against_bound(bed, figures)
        await bed.check_paths()
    async with Bed.of(EngineChoice("8B", SLOW)) as bed:
        await _near_and_far(bed, figures)


async def _against_one(bed: Bed, figures: Figures) -> None:
    ratios, totals, shares = [], [], []
    for _ in range(ROUNDS):
        one = (await bed.answer(Request(PROMPT, TOKENS))).rate(skip=SKIP)
        total = await _total(bed, figures, Request(PROMPT, TOKENS))
        tell(f"{total:.0f} tokens/s of {SESSIONS} sessions, {one:.2f} of one")
        ratios.append(total / one)
        totals.append(total)
        shares.append(total / _bound(bed))
    workload = _workload(bed)
    figures.add("total of 32 sessions against one", workload, ratios, "x", ">= 8 x")
    figures.add("total of 32 sessions", workload, totals, "tokens/s")
    figures.add("total of 32 sessions against 32 / trip", workload, shares, "x")


async def _against_bound(bed: Bed, figures: Figures) -> None:
    request = Request(PROMPT, TOKENS // 2)
    shares = [await _total(bed, figures, request) / _bound(bed) for _ in range(ROUNDS)]
    figures.add("total of 32 sessions against 32 / trip", _workload(bed), shares, "x")


async def _near_and_far(bed: Bed, figures: Figures) -> None:
    near: list[float] = []
    far: list[float] = []
    for _ in range(ROUNDS):
        for delay_ms, totals in ((0.0, near), (100.0, far)):
            await bed.set(Conditions(delay_ms=delay_ms))
            totals.append(await _total(bed, figures, Request(SLOW_PROMPT, SLOW_TOKENS)))
            tell(f"{totals[-1]:.1f} tokens/s of {SESSIONS} sessions, {delay_ms:g} ms a link")
    lost = [100 * (1 - b / a) for a, b in zip(near, far, strict=True)]
    workload = (
        f"{SESSIONS} sessions, {bed.hops} hops of {SLOW.step_ms:g} ms + {SLOW.row_ms:g} ms a row"
    )
    figures.add("total lost from 0 to 100 ms a link", workload, lost, "%", "<= 5 %")


async def _total(bed: Bed, figures: Figures, request: Request) -> float:
    """Tokens a second of all sessions, while all of them decode."""
    with figures.watching(f"{SESSIONS} sessions, {bed.conditions}"):
        numbers = range(SESSIONS)
        answers = await asyncio.gather(*(_answer(bed, request, number) for number in numbers))
    return _rate_together(answers)


async def _answer(bed: Bed, request: Request, number: int) -> Answer:
    """Nobody's requests come all at the same moment."""
    await asyncio.sleep(number * STAGGER_S)
    return await bed.answer(request)


def _rate_together(answers: Sequence[Answer]) -> float:
    """From when the last has begun for good until the first is done."""
    begin = max(answer.began_s + answer.times_s[SKIP] for answer in answers)
    end = min(answer.began_s + answer.times_s[-1] for answer in answers)
    count = sum(
        begin < answer.began_s + time_s <= end for answer in answers for time_s in answer.times_s
    )
    return count / (end - begin)


def _bound(bed: Bed) -> float:
    """As many trips at once as there are sessions, none of which waits for another."""
    formula = Formula(bed.choice, bed.conditions, WireDtype.INT8B32, bed.hops)
    return SESSIONS / formula.ring_s


def _workload(bed: Bed) -> str:
    shape = bed.choice.shape
    curve = shape.curve
    return (
        f"{shape.name} int8b32, {bed.hops} hops of {curve.step_ms:g} ms + {curve.row_ms:g} ms a "
        f"row, {bed.conditions}"
    )
