"""The jobs of `keys`."""

from marketplace.keys.budgets import SETTLED_AT_ONCE_MAX, settle_ready
from marketplace.market import Market
from marketplace.worker import Job

__all__ = ["SETTLE_BUDGETS"]

BATCHES_MAX = 20
"""Of one turn, so that a backlog cannot keep a thread for ever."""


def settle_budgets(market: Market) -> int:
    """Give keys back what their settled holds did not come to; gives how many holds.

    Until then a key may spend less than its limit, never more.
    """
    settled = 0
    for _ in range(BATCHES_MAX):
        with market.database.transaction() as session:
            batch = settle_ready(session)
        settled += batch
        if batch < SETTLED_AT_ONCE_MAX:
            break
    return settled


SETTLE_BUDGETS = Job(
    "settle-budgets", lambda market: market.config.settlement_window_s, settle_budgets
)
