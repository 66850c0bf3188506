"""What each process of a marketplace does for its own index of offers."""

from marketplace.market import Market
from marketplace.offers.service import follow

__all__ = ["FOLLOW_EVERY_S", "follow_offers"]

FOLLOW_EVERY_S = 1.0
"""So old may the index of a process be; a quote that misses something looks itself."""


def follow_offers(market: Market) -> int:
    """Take in what other processes have put and withdrawn; gives 0, for it is no news."""
    now_s = market.clock.now_s()
    with market.database.reading() as session:
        follow(session, market.index, now_s=now_s)
    market.index.forget_expired(now_s)
    return 0
