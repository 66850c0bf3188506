"""Decoding without drafts: ring against formula and client-star, at several links and sizes."""

import itertools
from statistics import median
from typing import Final

from benchmarks.wan.bed import Answer, Bed, Request
from benchmarks.wan.delay import Conditions
from benchmarks.wan.echo import measure_lines
from benchmarks.wan.engines import EngineChoice
from benchmarks.wan.figures import Figures, quantile, tell
from benchmarks.wan.formula import Formula
from protocol.tensor import WireDtype

__all__ = ["measure"]

ROUNDS: Final = 3
PROMPT: Final = tuple(range(100, 116))
SKIP: Final = 8
"""Tokens of an answer that are not timed: loops begin short."""

FAR: Final = Conditions(delay_ms=30)
NARROW: Final = Conditions(delay_ms=30, uplink_mbit=20)
ROUGH: Final = Conditions(delay_ms=30, uplink_mbit=20, jitter_ms=2, loss=0.001)
TOKENS: Final = {"ring": 80, "sealed": 36, "star": 28}


async def measure(figures: Figures) -> None:
    """About four minutes."""
    await measure_lines(figures)
    for model in ("8B", "70B"):
        async with Bed.of(EngineChoice(model)) as bed:
            await bed.set(FAR)
            await _warm(bed)
            await _against_star(bed, figures, rounds=ROUNDS if model == "8B" else 2)
            if model == "8B":
                await _ring_alone(bed, figures, NARROW)
                await _ring_alone(bed, figures, ROUGH)
                await _ring_alone(bed, figures, NARROW, wire=WireDtype.BF16)
            await _overhead(bed, figures)
            await bed.check_paths()


async def _warm(bed: Bed) -> None:
    """Connections, windows and code paths; once each way round."""
    for kind in TOKENS:
        await bed.answer(_request(kind, tokens=12))


def _request(kind: str, *, tokens: int, wire: WireDtype = WireDtype.INT8B32) -> Request:
    return Request(PROMPT, tokens, sealed=kind == "sealed", star=kind == "star", wire=wire)


async def _against_star(bed: Bed, figures: Figures, *, rounds: int) -> None:
    """The three ways round in turns."""
    formula = Formula(bed.choice, bed.conditions, WireDtype.INT8B32)
    bounds = {"ring": formula.ring_s, "sealed": formula.sealed_s, "star": formula.star_s}
    rates: dict[str, list[float]] = {kind: [] for kind in TOKENS}
    for _ in range(rounds):
        for kind, tokens in TOKENS.items():
            with figures.watching(f"{bed.choice.shape.name} {kind}"):
                answer = await bed.answer(_request(kind, tokens=tokens))
            rates[kind].append(answer.rate(skip=SKIP))
            tell(f"{bed.choice.shape.name} {kind}: {rates[kind][-1]:.2f} tokens/s")
    workload = _workload(bed)
    figures.add("ring decode", workload, rates["ring"], "tokens/s")
    for kind, mark in (("ring", ">= 0.95 x"), ("sealed", ""), ("star", "")):
        shares = [rate * bounds[kind] for rate in rates[kind]]
        name = "sealed ring" if kind == "sealed" else kind
        figures.add(f"{name} decode against its formula", workload, shares, "x", mark)
    for kind, mark in (("ring", ">= 1.6 x"), ("sealed", "")):
        name = "sealed ring" if kind == "sealed" else kind
        ratios = [a / b for a, b in zip(rates[kind], rates["star"], strict=True)]
        figures.add(f"{name} against client-star", workload, ratios, "x", mark)


async def _ring_alone(
    bed: Bed,
    figures: Figures,
    conditions: Conditions,
    *,
    wire: WireDtype = WireDtype.INT8B32,
) -> None:
    """The ring under other conditions, and the bytes that its middle links carry for a token."""
    await bed.set(conditions)
    formula = Formula(bed.choice, conditions, wire)
    await bed.answer(_request("ring", tokens=12, wire=wire))
    shares, sizes = [], []
    for _ in range(2):
        before = await bed.counts()
        with figures.watching(f"{bed.choice.shape.name} ring, {conditions}, {wire}"):
            answer = await bed.answer(_request("ring", tokens=64, wire=wire))
        after = await bed.counts()
        shares.append(answer.rate(skip=SKIP) * formula.ring_s)
        sizes.append((after["1-2"]["bytes"] - before["1-2"]["bytes"]) / (len(PROMPT) + 63))
    workload = _workload(bed, wire)
    figures.add("ring decode against its formula", workload, shares, "x")
    if not conditions.loss:
        figures.add("a link's bytes for one token, all headers", workload, sizes, "B")


async def _overhead(bed: Bed, figures: Figures) -> None:
    """Software at each hop: what a step takes beyond computing where links take nothing."""
    await bed.set(Conditions())
    compute_ms = 1000 * bed.choice.shape.curve.seconds(1)
    middle, tail = [], []
    for _ in range(ROUNDS):
        with figures.watching(f"{bed.choice.shape.name} ring, 0 ms"):
            answer = await bed.answer(_request("ring", tokens=120))
        gaps = _gaps_ms(answer)
        middle.append(median(gaps) / bed.hops - compute_ms)
        tail.append(quantile(gaps, 0.99) / bed.hops - compute_ms)
    workload = _workload(bed)
    figures.add("software a hop, p50", workload, middle, "ms", "<= 2 ms")
    figures.add("software a hop, p99", workload, tail, "ms", "<= 5 ms")
    late_s = sorted(late for report in await bed.reports() for late in report["late_s"])
    tell(f"engines answered {1e6 * median(late_s):.0f} us late at the median")


def _gaps_ms(answer: Answer) -> list[float]:
    times = answer.times_s[SKIP:]
    return [1000 * (b - a) for a, b in itertools.pairwise(times)]


def _workload(bed: Bed, wire: WireDtype = WireDtype.INT8B32) -> str:
    shape = bed.choice.shape
    compute_ms = 1000 * shape.curve.seconds(1)
    return f"{shape.name} {wire}, {bed.hops} hops of {compute_ms:g} ms, {bed.conditions}"
