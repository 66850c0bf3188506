"""Running a marketplace's jobs outside its HTTP process, until told to stop."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence

from ledger.errors import ForkDetected
from marketplace.collecting import freeze_startup
from marketplace.market import Market
from marketplace.worker import Job, Worker

__all__ = ["run_jobs"]


async def run_jobs(market: Market, jobs: Sequence[Job]) -> None:
    """Until SIGTERM or SIGINT; a turn under way is finished. Raises ForkDetected on a fork."""
    market.database.upgrade()
    freeze_startup()
    stop, forked = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def on_fork() -> None:
        forked.set()
        stop.set()

    task = asyncio.create_task(Worker(market, jobs, on_fork).run())
    await stop.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    market.database.close()
    if forked.is_set():
        raise ForkDetected("The log contradicts what was signed.", hint="See the log above.")
