"""The jobs of `users` and `machines`: forgetting what is over."""

from marketplace.machines.repository import DeviceRepository
from marketplace.market import Market
from marketplace.users.repository import AttemptRepository, LetterRepository, LoginRepository
from marketplace.worker import Job

__all__ = ["FORGET_USERS"]

EVERY_S = 60.0
"""Nothing waits for it: what is over is refused without it."""
LETTER_KEPT_S = 7 * 24 * 3600
"""A letter that was taken to be sent is kept a week, for who asks where it went."""


def forget(market: Market) -> int:
    """Drop sessions, tokens, counters and device codes that are over; gives 0."""
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        LoginRepository(session).forget_expired(now_s)
        LetterRepository(session).forget_expired(now_s, now_s - LETTER_KEPT_S)
        AttemptRepository(session).forget_expired(now_s)
        DeviceRepository(session).forget_expired(now_s)
    return 0


FORGET_USERS = Job("forget-users", lambda _: EVERY_S, forget)
