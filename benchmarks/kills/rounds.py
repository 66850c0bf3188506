"""One round: answers begin, the fault falls, and everything that was asked for is judged."""

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.kills.cases import Case, Kind
from benchmarks.kills.channel import Message
from benchmarks.kills.faults import Fault
from benchmarks.kills.judging import Expected, Verdict, judge, ordinary_first_s
from benchmarks.kills.lane import Lane

__all__ = ["Outcome", "Rounds"]

ANSWER_TIMEOUT_S: Final = 60.0
"""An answer that takes longer hangs: the undisturbed one takes a second."""
GIVE_UP_TIMEOUT_S: Final = 30.0
"""From cancelling a hanging answer to the head's word on it."""
FIRST_S_DEFAULT: Final = 0.1
"""What a first token takes, until undisturbed answers have shown it."""
FIRSTS_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """`aside`: of the answer beside the one that the fault was aimed at."""

    case: Case
    verdict: Verdict
    aside: Verdict | None
    struck: tuple[str, ...]
    billing_rows: dict[str, int]
    """By session: the rows whose results arrived; for the bill, once all receipts are in."""


class Rounds:
    """Runs cases on one lane. `expected` by (question, manner)."""

    def __init__(
        self, lane: Lane, expected: Mapping[tuple[int, int], Expected], max_tokens: int
    ) -> None:
        self.lane = lane
        self._expected = expected
        self._max_tokens = max_tokens
        self._numbers = itertools.count(1)
        self._firsts_s: defaultdict[int, list[float]] = defaultdict(list)

    async def run(self, case: Case) -> Outcome:
        await self.lane.ready(spare=2 if case.kind is Kind.AGAIN else 1)
        self.lane.announce()
        expected = self._expected[case.question, case.manner]
        watch = int(case.at * expected.tokens)
        number = self._ask(case, case.question, watch)
        aside = None if case.aside is None else self._ask(case, case.aside, 0)
        fault = await self._strike_at(case, number, watch)
        told = await self._last_word(number)
        if fault is not None:
            await fault.over()
        beside = None if aside is None else await self._last_word(aside)
        at_s = fault.at_s if fault else None
        verdict = self._judge(case.question, case.manner, told, at_s)
        return Outcome(
            case=case,
            verdict=verdict,
            aside=self._judge(case.aside, case.manner, beside, at_s)
            if beside is not None and case.aside is not None
            else None,
            struck=tuple(fault.struck) if fault else ("it was over before the fault",),
            billing_rows={
                w["session"]: w.get("rows", 0) for w in (told, beside or {}) if w.get("session")
            },
        )

    def _ask(self, case: Case, question: int, watch: int) -> int:
        number = next(self._numbers)
        self.lane.ask_answer(
            number,
            {
                "question": question, "manner": case.manner, "tenant": case.tenant,
                "max_tokens": self._max_tokens, "watch": watch,
            },
        )  # fmt: skip
        return number

    async def _strike_at(self, case: Case, number: int, watch: int) -> Fault | None:
        """Wait for the case's token, then strike; None where the answer was over before."""
        over = self.lane.told[number]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while number not in self.lane.begun and not over.done():
                    self.lane.changed.clear()
                    await asyncio.wait(
                        [over, asyncio.ensure_future(self.lane.changed.wait())],
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                if watch:
                    reached = asyncio.ensure_future(self.lane.reached[number].wait())
                    await asyncio.wait([over, reached], return_when=asyncio.FIRST_COMPLETED)
                    reached.cancel()
        if over.done() or number not in self.lane.begun:
            return None
        await asyncio.sleep(case.delay_s)
        fault = Fault(self.lane, case, self.lane.begun[number]["session"])
        try:
            await fault.strike()
        except (ConnectionError, TimeoutError) as error:
            fault.struck.append(f"it did not take: {error!r}")
        return fault

    async def _last_word(self, number: int) -> Message:
        told = self.lane.told[number]
        done, _ = await asyncio.wait([told], timeout=ANSWER_TIMEOUT_S)
        if not done:
            self.lane.head.tell({"do": "cancel", "answer": number})
            done, _ = await asyncio.wait([told], timeout=GIVE_UP_TIMEOUT_S)
        for table in (self.lane.told, self.lane.reached):
            table.pop(number, None)
        begun = self.lane.begun.pop(number, {"session": None, "prompt": 0})
        if done:
            return told.result()
        return begun | {
            "error": "HUNG: not even cancelling ends it", "tokens": 0, "digest": "",
            "times_s": [time.monotonic()], "rows": 0,
        }  # fmt: skip

    def _judge(self, question: int, manner: int, told: Message, at_s: float | None) -> Verdict:
        firsts = self._firsts_s[question]
        verdict = judge(
            told,
            self._expected[question, manner],
            fault_at_s=at_s,
            epochs=self.lane.epochs.pop(told["session"] or "", 0),
            first_s=median(firsts) if firsts else FIRST_S_DEFAULT,
        )
        first_s = ordinary_first_s(told)
        times_s = told["times_s"]
        if verdict.complete and first_s is not None and (at_s is None or times_s[2] < at_s):
            firsts.append(first_s)
            del firsts[:-FIRSTS_MAX]
        return verdict
