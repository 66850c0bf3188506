"""What the marketplace does between requests: jobs, each at its own pace, each safe to run again.

A job that fails is logged and its next turn makes up for it. A fork of the log is the exception: it
means that what was signed is no longer true, and the process must not go on. Every job takes its
work from the database, so several processes may run the same jobs, or share them out.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ledger.errors import ForkDetected
from marketplace.market import Market

__all__ = ["Job", "Worker"]

log = logging.getLogger(__name__)

FIRST_TURN_S = 5.0
"""Until a job's first turn, however seldom it comes round: a process that is started again more
often than that would never do it."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do again and again. `run` gives how much it did, and raises what fails."""

    name: str
    every_s: Callable[[Market], float]
    run: Callable[[Market], int]


class Worker:
    """Jobs over one market."""

    def __init__(self, market: Market, jobs: Sequence[Job], on_fork: Callable[[], None]) -> None:
        self._market = market
        self._jobs = {job.name: job for job in jobs}
        self._on_fork = on_fork

    async def run(self) -> None:
        """Every job at its pace until cancelled, or until the log is found to be forked."""
        tasks = {asyncio.create_task(self._repeat(job)) for job in self._jobs.values()}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def round(self) -> None:
        """Every job once, in their order; raises what went wrong."""
        for name in self._jobs:
            self.do(name)

    def do(self, name: str) -> int:
        """One job once, by name; raises what went wrong."""
        return self._jobs[name].run(self._market)

    async def _repeat(self, job: Job) -> None:
        """A turn under way is finished before a cancellation goes on: it is in a thread."""
        wait_s = min(job.every_s(self._market), FIRST_TURN_S)
        while True:
            await asyncio.sleep(wait_s)
            wait_s = job.every_s(self._market)
            task = asyncio.create_task(asyncio.to_thread(self._turn, job))
            try:
                may_go_on = await asyncio.shield(task)
            except asyncio.CancelledError:
                await task
                raise
            if not may_go_on:
                self._on_fork()
                return

    def _turn(self, job: Job) -> bool:
        """One turn, its errors logged; False if there may be no other."""
        try:
            if done := job.run(self._market):
                log.info("%s: %d", job.name, done)
        except ForkDetected:
            log.critical("the log contradicts what was signed: stopping", exc_info=True)
            return False
        except Exception:  # the edge of the task: the next turn tries again
            log.exception("the job '%s' failed; its next turn makes up for it", job.name)
        return True
