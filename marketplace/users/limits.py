"""How often something may be tried: counters in windows of time, kept in the database.

In the database and not in the process, because a pool may run several and an attacker would ask
them all. An attempt is counted in a transaction of its own, before what it tries is looked at: a
refusal rolls nothing back. The table is bounded: an address is counted first, so that one visitor
adds at most its own limit of rows in a window, and windows that are over are forgotten.
"""

import hashlib
from dataclasses import dataclass

from ledger.database import Session
from marketplace.db import Database
from marketplace.users.errors import TooManyAttempts
from marketplace.users.repository import AttemptRepository

__all__ = [
    "CODE_BY_USER",
    "DEVICE_BY_ADDRESS",
    "DEVICE_BY_PEER",
    "RESET_BY_ADDRESS",
    "RESET_BY_EMAIL",
    "SIGN_IN_BY_ADDRESS",
    "SIGN_IN_BY_EMAIL",
    "SIGN_IN_BY_PAIR",
    "SIGN_UP_BY_ADDRESS",
    "TOKEN_BY_ADDRESS",
    "USER_CODE_BY_ADDRESS",
    "USER_CODE_BY_CALLER",
    "Limit",
    "Tried",
    "count_attempts",
    "count_within",
]

_DOMAIN = b"piecework/attempt/v1\0"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `attempts_max` of `what` in `window_s`, for one `source`."""

    what: str
    source: str
    attempts_max: int
    window_s: int


@dataclass(frozen=True, slots=True)
class Tried:
    """What is limited, and for whom."""

    limit: Limit
    subject: str


SIGN_IN_BY_ADDRESS = Limit("sign-ins from this address", "address", 60, 600)
"""A household or an office behind one address."""
SIGN_IN_BY_PAIR = Limit("sign-ins to this account from here", "account", 10, 600)
"""Whoever forgot a password is told soon; whoever guesses is, too."""
SIGN_IN_BY_EMAIL = Limit("sign-ins to this account", "account", 100, 3600)
"""From everywhere together. Higher, so that shutting somebody out takes a crowd of addresses; 2 400
guesses a day at ten characters last longer than anybody lives."""
SIGN_UP_BY_ADDRESS = Limit("sign-ups from this address", "address", 10, 3600)
RESET_BY_ADDRESS = Limit("letters asked for from this address", "address", 20, 3600)
RESET_BY_EMAIL = Limit("letters to this address", "account", 3, 3600)
"""Nobody's letter box is filled by somebody else."""
CODE_BY_USER = Limit("one-time codes", "account", 5, 900)
"""Three of a million are good at a time: two years on average for who has the password already."""
TOKEN_BY_ADDRESS = Limit("links opened from this address", "address", 60, 600)
DEVICE_BY_ADDRESS = Limit("devices from this address", "address", 60, 600)
DEVICE_BY_PEER = Limit("codes for this device", "device", 10, 600)
USER_CODE_BY_CALLER = Limit("device codes", "account", 20, 600)
"""Of 2^34 codes of which a few wait: twenty looks find one with a chance of one in 10^8."""
USER_CODE_BY_ADDRESS = Limit("device codes from this address", "address", 40, 600)


def count_attempts(database: Database, now_s: int, *tries: Tried) -> None:
    """Count each, in the order given, and stop at the first that is over its limit.

    Raises TooManyAttempts; what was counted stays counted.
    """
    with database.transaction() as session:
        over = next((tried for tried in tries if not _is_within(session, tried, now_s)), None)
    if over is not None:
        raise _too_many(over, now_s)


def count_within(session: Session, now_s: int, tried: Tried) -> None:
    """Count one in the caller's transaction, with what it limits: given up, it was never counted.

    Raises TooManyAttempts.
    """
    if not _is_within(session, tried, now_s):
        raise _too_many(tried, now_s)


def _too_many(over: Tried, now_s: int) -> TooManyAttempts:
    window_s = over.limit.window_s
    return TooManyAttempts(over.limit.what, window_s - now_s % window_s, over.limit.source)


def _is_within(session: Session, tried: Tried, now_s: int) -> bool:
    limit = tried.limit
    name = f"{limit.what}\0{tried.subject}".encode()
    start_s = now_s - now_s % limit.window_s
    count = AttemptRepository(session).count(
        hashlib.sha256(_DOMAIN + name).digest(), start_s, start_s + limit.window_s
    )
    return count <= limit.attempts_max
