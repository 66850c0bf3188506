"""How many requests a minute a key may begin: counted with the session that each of them opens.

In the transaction of its hold, so that a request which waits in line for money, or is asked for
again in smaller parts, counts once, and one that is refused not at all.
"""

from ledger.database import Session
from marketplace.keys.repository import KeyRepository
from marketplace.users.limits import Limit, Tried, count_within

__all__ = ["count"]

WINDOW_S = 60


def count(session: Session, key_id: str | None, *, now_s: int) -> None:
    """One request more. Raises TooManyAttempts; then the transaction must be given up.

    None for a person, whom no key limits.
    """
    key = None if key_id is None else KeyRepository(session).find(key_id)
    if key is None or key.requests_per_minute_max is None:
        return
    limit = Limit("requests with this key", "key_rpm", key.requests_per_minute_max, WINDOW_S)
    count_within(session, now_s, Tried(limit, key.key_id))
