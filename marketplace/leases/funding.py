"""Trying to hold a buyer's money, and telling what is in flight from what is not there.

A session holds the most that it may cost, and mostly costs less. So before a buyer is refused, what
of his is over is settled at once; and where the rest would do once his other sessions end, he is
told to wait and not to top up.
"""

from collections.abc import Callable
from typing import TypeVar

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from ledger.settle_window import SETTLED_AT_ONCE_MAX, settle_ready
from marketplace.errors import InsufficientFunds
from marketplace.leases.errors import FundsInFlight
from marketplace.leases.repository import SessionRepository
from marketplace.market import Market

__all__ = ["held_for"]

T = TypeVar("T")


def held_for(
    market: Market,
    account_id: str,
    attempt: Callable[[Session], T],
    *,
    session_id: bytes | None = None,
) -> T:
    """What `attempt` gives; it runs in a transaction of its own, and again where money lacked.

    `session_id`: of a session under way whose own holds cannot be waited for. Raises
    InsufficientFunds where the balance could not cover it whatever others give back, FundsInFlight
    where it could; nothing is held then.
    """
    try:
        with market.database.transaction() as session:
            return attempt(session)
    except InsufficientFunds:
        settle_own(market, account_id)
    try:
        with market.database.transaction() as session:
            return attempt(session)
    except InsufficientFunds as error:
        raise _why(market, account_id, session_id, error) from error


def settle_own(market: Market, account_id: str) -> int:
    """Settle what of this buyer's is ready; gives how many holds."""
    with market.database.transaction() as session:
        settled = settle_ready(
            session, now_s=market.clock.now_s(), limit=SETTLED_AT_ONCE_MAX, buyer=account_id
        )
    return len(settled)


def _why(
    market: Market, account_id: str, session_id: bytes | None, error: InsufficientFunds
) -> InsufficientFunds | FundsInFlight:
    with market.database.reading() as session:
        balance = Book(session).balance(AccountRef(AccountCode.BUYER_CASH, account_id))
        own = 0
        if session_id is not None:
            holds = SessionRepository(session).hold_states(session_id)
            own = sum(hold.amount_nanos for hold in holds if hold.charged_nanos is None)
    others = balance.debits_pending - own
    if error.needed_nanos > balance.posted_nanos - own:
        return error
    return FundsInFlight(error.needed_nanos, max(balance.available_nanos, 0), max(others, 0))
