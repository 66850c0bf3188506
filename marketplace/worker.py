"""What the marketplace does between requests: settle, sign a checkpoint, forget what is over.

One round every settlement window. Each step is a transaction of its own and can be run again, so a
round that fails is logged and the next one makes up for it. A fork of the log is the exception: it
means that what was signed is no longer true, and the process must not go on.
"""

import asyncio
import logging
from collections.abc import Callable

from ledger.checkpoint import origin_of
from ledger.errors import ForkDetected
from ledger.log import publish_checkpoint
from ledger.settle_window import SETTLED_AT_ONCE_MAX, settle_ready
from marketplace.keys.repository import KeyRepository, NonceRepository
from marketplace.market import Market
from marketplace.offers.repository import PlacementRepository
from marketplace.quotes.repository import QuoteRepository

__all__ = ["Worker"]

log = logging.getLogger(__name__)

BATCHES_MAX = 20
"""Batches of one round, so that a backlog cannot put off the checkpoint for ever."""
QUOTE_KEPT_S = 3600
"""An accepted quote is kept a while, so that accepting it twice can be answered."""


class Worker:
    """Rounds of settlement over one market."""

    def __init__(self, market: Market, on_fork: Callable[[], None]) -> None:
        self._market = market
        self._on_fork = on_fork
        self._window_s: float = market.config.settlement_window_s

    async def run(self) -> None:
        """A round every window until cancelled, or until the log is found to be forked.

        A round under way is finished before the cancellation goes on: it is in a thread.
        """
        while True:
            await asyncio.sleep(self._window_s)
            task = asyncio.create_task(asyncio.to_thread(self._round))
            try:
                may_go_on = await asyncio.shield(task)
            except asyncio.CancelledError:
                await task
                raise
            if not may_go_on:
                self._on_fork()
                return

    def round(self) -> None:
        """One round; raises what went wrong."""
        settled = self.settle()
        self.publish()
        self.forget()
        if settled:
            log.info("settled %d sessions", settled)

    def settle(self) -> int:
        """Settle every hold that is ready; gives how many."""
        settled = 0
        for _ in range(BATCHES_MAX):
            with self._market.database.transaction() as session:
                batch = settle_ready(
                    session, now_s=self._market.clock.now_s(), limit=SETTLED_AT_ONCE_MAX
                )
            settled += len(batch)
            if len(batch) < SETTLED_AT_ONCE_MAX:
                break
        return settled

    def publish(self) -> None:
        """Sign the log as it is."""
        market = self._market
        with market.database.transaction() as session:
            publish_checkpoint(
                session, market.key, origin_of(market.config.network), market.clock.now_s()
            )

    def forget(self) -> None:
        """Drop what is over, and write when keys were used."""
        market = self._market
        now_s = market.clock.now_s()
        with market.database.transaction() as session:
            NonceRepository(session).forget_expired(now_s)
            PlacementRepository(session).forget_expired(now_s)
            QuoteRepository(session).forget_expired(now_s - QUOTE_KEPT_S)
            KeyRepository(session).note_uses(market.key_uses.take())
        market.index.forget_expired(now_s)

    def _round(self) -> bool:
        """One round, its errors logged; False if there may be no other."""
        try:
            self.round()
        except ForkDetected:
            log.critical("the log contradicts what was signed: stopping", exc_info=True)
            return False
        except Exception:  # the edge of the task: the next round tries again
            log.exception("a settlement round failed; the next one makes up for it")
        return True
