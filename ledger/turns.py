"""Turns: who decides over what has no row to lock does it one after the other.

An advisory lock of PostgreSQL's, held until the transaction ends; what whoever had the turn before
has committed is seen by the next statement. On SQLite the transaction has the only write lock.
"""

import hashlib
from collections.abc import Iterable

from sqlalchemy import text

from ledger.database import Session

__all__ = ["take_turns"]

TURNS = 64
"""Of one purpose: names share them, so that a transaction holds at most so many locks. The server
has room for a few thousand in all."""

_TAKE = text("SELECT pg_advisory_xact_lock(:purpose, :turn)")


def take_turns(session: Session, purpose: str, names: Iterable[bytes]) -> None:
    """Wait until nobody else has the turn for any of `names`, and have it until the end.

    All of a purpose are asked for in one call, in one order, so that two who ask never wait for
    one another. Rows that others lock before they ask must not be asked for afterwards.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    number = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], signed=True)
    for turn in sorted({hashlib.sha256(name).digest()[0] % TURNS for name in names}):
        session.execute(_TAKE, {"purpose": number, "turn": turn})
