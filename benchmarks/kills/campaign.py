"""A whole campaign: the farm, the reference answers, lanes side by side, and the report."""

import asyncio
import itertools
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from benchmarks.kills.cases import MANNERS, QUESTIONS, Case, Flavour, Kind, make_case
from benchmarks.kills.channel import Message
from benchmarks.kills.farm import Farm, start_farm
from benchmarks.kills.growth import Growth
from benchmarks.kills.judging import Expected
from benchmarks.kills.lane import Lane
from benchmarks.kills.registry import NOTICE_S
from benchmarks.kills.report import Report
from benchmarks.kills.rounds import Outcome, Rounds

__all__ = ["Campaign", "run_campaign"]

REFERENCE_TIMEOUT_S: Final = 120.0
SAMPLE_EVERY: Final = 5
"""Rounds of a lane between two looks at its processes."""
SHOW_EVERY: Final = 25
"""Faults between two lines of progress where stderr is a file."""
QUIET_S: Final = 2.5
"""At the end: until hops have noticed that links are dead, and receipts are handed in."""
QUIET_MAX_S: Final = 40.0


@dataclass(frozen=True, slots=True)
class Campaign:
    """What to do. The same seed gives the same cases; their timing is the machine's."""

    seed: int = 1
    first: int = 0
    kills: int = 1000
    kinds: Sequence[Kind] = tuple(kind for kind in Kind if kind is not Kind.NONE)
    flavours: Sequence[Flavour] = (Flavour.OPEN_FREE, Flavour.SEALED_PAID)
    lanes: int = 4
    """Routes under test at the same time, the flavours in turn."""
    per_span: int = 3
    """Providers for each span of a lane."""
    max_tokens: int = 64
    warm_rounds: int = 4
    """Undisturbed answers of each lane before the first fault."""
    notice_s: float = NOTICE_S
    questions: Sequence[int] = tuple(range(len(QUESTIONS)))
    manners: Sequence[int] = tuple(range(len(MANNERS)))
    drafting: str = "lookup"
    """Of the heads: off, lookup, or model (the model itself drafts)."""
    delay_s: float = 0.0
    """Each way of every link."""
    log_level: str = "WARNING"
    logs: str | None = None
    """Directory for what the processes said; None: kept only where something fails."""
    quiet: bool = False
    """No progress on stderr."""

    def command(self) -> str:
        """What repeats its cases."""
        words = ["python -m benchmarks.session_kills", f"--seed {self.seed}"]
        if self.kinds != Campaign.kinds:
            words += [f"--kind {kind}" for kind in self.kinds]
        words += [f"--flavour {flavour}" for flavour in self.flavours]
        words.append(f"--drafting {self.drafting} --delay-ms {self.delay_s * 1000:g}")
        return " ".join(words)

    def cases(self) -> list[Case]:
        """Only questions and manners that this campaign knows the answers of."""
        made = (
            make_case(self.seed, index, self.kinds, self.flavours)
            for index in range(self.first, self.first + self.kills)
        )
        return [
            replace(
                case,
                question=_pick(self.questions, case.question),
                manner=_pick(self.manners, case.manner),
                aside=None if case.aside is None else _pick(self.questions, case.aside),
            )
            for case in made
        ]


async def run_campaign(campaign: Campaign) -> Report:
    """Run every case and judge it. Raises TimeoutError when the processes do not start."""
    async with start_farm(log_level=campaign.log_level) as farm:
        expected = await _references(farm, campaign)
        growth = Growth()
        lanes = [
            Lane(
                farm, f"{number}.{flavour}", flavour, per_span=campaign.per_span,
                notice_s=campaign.notice_s, drafting=campaign.drafting,
                delay_s=campaign.delay_s, growth=growth,
                rng=Random(f"{campaign.seed}/{number}"),
            )
            for number, flavour in zip(
                range(campaign.lanes), itertools.cycle(campaign.flavours), strict=False
            )
        ]  # fmt: skip
        report = Report(campaign.seed, campaign.command(), growth)
        await asyncio.gather(*(lane.start() for lane in lanes))
        began = time.monotonic()
        try:
            waiting = deque(campaign.cases())
            await asyncio.gather(
                *(_run_lane(lane, campaign, waiting, expected, report) for lane in lanes)
            )
            report.took_s = time.monotonic() - began
            left = await asyncio.gather(*(_what_is_left(lane) for lane in lanes))
            report.left = {lane.name: found for lane, found in zip(lanes, left, strict=True)}
            for lane in lanes:
                report.bill(lane)
                report.crashes += lane.crashes
        finally:
            await asyncio.gather(*(lane.close() for lane in lanes))
        report.keep_logs(farm.logs, campaign.logs)
        return report


async def _references(farm: Farm, campaign: Campaign) -> dict[tuple[int, int], Expected]:
    order = {
        "questions": list(campaign.questions),
        "manners": list(campaign.manners),
        "max_tokens": campaign.max_tokens,
    }
    process = await farm.spawn("reference", "reference", order, timeout_s=REFERENCE_TIMEOUT_S)
    told = await process.hello
    process.kill()
    return {
        (question, manner): Expected(digest, tokens, prompt)
        for question, manner, digest, tokens, prompt in told["references"]
    }


async def _run_lane(
    lane: Lane,
    campaign: Campaign,
    waiting: deque[Case],
    expected: dict[tuple[int, int], Expected],
    report: Report,
) -> None:
    """Take cases of the lane's flavour as long as any wait, behind a few undisturbed answers."""
    rounds = Rounds(lane, expected, campaign.max_tokens)
    warm = replace(
        campaign,
        seed=-1,
        first=0,
        kills=campaign.warm_rounds,
        kinds=(Kind.NONE,),
        flavours=(lane.flavour,),
    )
    for number, case in enumerate(itertools.chain(warm.cases(), _taken(waiting, lane.flavour))):
        outcome = await rounds.run(case)
        report.add(lane.name, outcome)
        if not campaign.quiet:
            _show(report, outcome, campaign.kills)
        if number % SAMPLE_EVERY == SAMPLE_EVERY - 1:
            await lane.sample()


def _taken(waiting: deque[Case], flavour: Flavour) -> Iterator[Case]:
    """The next one of that flavour, until there is none."""
    while case := next((case for case in waiting if case.flavour is flavour), None):
        waiting.remove(case)
        yield case


async def _what_is_left(lane: Lane) -> dict[str, Message]:
    """Of every provider once all is quiet: sessions and KV that nobody wants any more."""
    await lane.ready(spare=0)
    await asyncio.sleep(QUIET_S)
    deadline = time.monotonic() + QUIET_MAX_S - QUIET_S
    while True:
        left: dict[str, Message] = {}
        for slot in lane.slots.values():
            found = await lane.statistics(slot)
            if found is None or "error" in found:
                left[slot.name] = found or {"gone": True}
            elif found["sequences"] or found["kv_tokens"] or found["sessions"] or found["queued"]:
                keys = ("sequences", "kv_tokens", "sessions", "queued", "tasks")
                left[slot.name] = {key: found[key] for key in keys}
        if not left or time.monotonic() > deadline:
            await lane.sample()
            return left
        await asyncio.sleep(1.0)


def _show(report: Report, outcome: Outcome, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{report.line()} of {total}  ", end="", file=sys.stderr, flush=True)
    elif outcome.case.kind is not Kind.NONE and len(report.kills) % SHOW_EVERY == 0:
        print(f"{report.line()} of {total}", file=sys.stderr, flush=True)
    if problem := report.problem(outcome):
        print(f"\n{problem}", file=sys.stderr, flush=True)


def _pick(allowed: Sequence[int], wanted: int) -> int:
    return allowed[wanted % len(allowed)]
