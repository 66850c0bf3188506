"""The job of `ledger_pages`: a balance tree every so often."""

from ledger.balance_snapshots import take_snapshot
from ledger.failpoint import reach
from marketplace.market import Market

__all__ = ["balances", "balances_every_s"]


def balances_every_s(market: Market) -> float:
    return market.config.balances_every_s


def balances(market: Market) -> int:
    """Prove what is owed, once a turn; gives how many trees were made."""
    every_s, now_s = market.config.balances_every_s, market.clock.now_s()
    with market.database.transaction() as session:
        taken = take_snapshot(session, now_s=now_s, every_s=every_s)
        reach("balances.before")
    return 0 if taken is None else 1
