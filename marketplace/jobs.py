"""The jobs of a marketplace, in the order in which one round runs them."""

import time
from collections.abc import Iterable, Sequence

from ledger.checkpoint import origin_of
from ledger.errors import TableBusy
from ledger.log import publish_checkpoint
from ledger.partitions import ensure_partitions
from ledger.settle_window import SETTLED_AT_ONCE_MAX, settle_ready
from marketplace.errors import MarketError
from marketplace.keys.jobs import SETTLE_BUDGETS
from marketplace.keys.repository import KeyRepository, NonceRepository
from marketplace.ledger_pages.jobs import balances, balances_every_s
from marketplace.market import Market
from marketplace.offers.jobs import FOLLOW_EVERY_S, follow_offers
from marketplace.offers.repository import PlacementRepository
from marketplace.payments.jobs import PAYMENT_JOBS
from marketplace.payouts.jobs import PAYOUT_JOBS
from marketplace.quotes.repository import QuoteRepository
from marketplace.users.jobs import FORGET_USERS
from marketplace.worker import Job

__all__ = ["JOBS", "LOCAL_JOBS", "chosen_jobs", "publish"]

BATCHES_MAX = 20
"""Batches of one turn, so that a backlog cannot keep a thread for ever."""
PARTITION_EVERY_S = 6 * 3600
"""The tables are made a week ahead."""
PARTITION_ATTEMPTS = 10
PARTITION_PAUSE_S = 0.5
"""Between attempts: receipts are mostly free at the first. A turn that fails does no harm, a week
ahead, and takes no longer than a process that stops may."""
QUOTE_KEPT_S = 3600
"""An accepted quote is kept a while, so that accepting it twice can be answered."""


def _window_s(market: Market) -> float:
    return market.config.settlement_window_s


def settle(market: Market) -> int:
    """Settle every hold that is ready; gives how many."""
    settled = 0
    for _ in range(BATCHES_MAX):
        with market.database.transaction() as session:
            batch = settle_ready(session, now_s=market.clock.now_s(), limit=SETTLED_AT_ONCE_MAX)
        settled += len(batch)
        if len(batch) < SETTLED_AT_ONCE_MAX:
            break
    return settled


def partition(market: Market) -> int:
    """Make the tables of receipts for the days to come; gives how many. Needs the tables' owner."""
    for _ in range(PARTITION_ATTEMPTS - 1):
        try:
            return _partition(market)
        except TableBusy:
            time.sleep(PARTITION_PAUSE_S)
    return _partition(market)


def _partition(market: Market) -> int:
    with market.database.transaction() as session:
        return ensure_partitions(session, market.clock.now_s())


def publish(market: Market) -> int:
    """Sign the log as it is; gives 0, for a checkpoint is no news."""
    with market.database.transaction() as session:
        publish_checkpoint(
            session, market.key, origin_of(market.config.network), market.clock.now_s()
        )
    return 0


def forget(market: Market) -> int:
    """Drop what is over, and write when keys were used; gives 0, for nobody waits for it."""
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        NonceRepository(session).forget_expired(now_s)
        PlacementRepository(session).forget_expired(now_s)
        QuoteRepository(session).forget_expired(now_s - QUOTE_KEPT_S)
        KeyRepository(session).note_uses(market.key_uses.take())
    market.index.forget_expired(now_s)
    return 0


def note_key_uses(market: Market) -> int:
    """Write when keys were used at this process; gives 0, for nobody waits for it."""
    uses = market.key_uses.take()
    if uses:
        with market.database.transaction() as session:
            KeyRepository(session).note_uses(uses)
    return 0


JOBS: Sequence[Job] = (
    Job("settle", _window_s, settle),
    Job("balances", balances_every_s, balances),
    Job("publish", _window_s, publish),
    Job("forget", _window_s, forget),
    Job("partition", lambda _: PARTITION_EVERY_S, partition),
    *PAYMENT_JOBS,
    *PAYOUT_JOBS,
    SETTLE_BUDGETS,
    FORGET_USERS,
)


LOCAL_JOBS: Sequence[Job] = (
    Job("follow", lambda _: FOLLOW_EVERY_S, follow_offers),
    Job("note", _window_s, note_key_uses),
)
"""What every process that serves HTTP does for itself: its own memory is concerned."""


def chosen_jobs(names: Iterable[str] | None) -> Sequence[Job]:
    """The jobs of these names, all where None; raises MarketError for a name that is none."""
    if names is None:
        return JOBS
    wanted, known = set(names), {job.name for job in JOBS}
    if unknown := wanted - known:
        raise MarketError(
            f"There is no job '{min(unknown)[:64]}'.", hint=f"Choose of {', '.join(sorted(known))}."
        )
    return tuple(job for job in JOBS if job.name in wanted)
