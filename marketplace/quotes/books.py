"""What must hold of quotes at every commit, for `piecework-market check`: a quote that was accepted
is its session's, and a session's quote knows it."""

from ledger.database import Session
from ledger.invariants import Violation
from marketplace.quotes.repository import QuoteRepository

__all__ = ["check"]

VIOLATIONS_MAX = 20
"""Enough to see what is wrong."""


def check(session: Session) -> list[Violation]:
    """Every quote that names another session than has it; a healthy database gives none."""
    return [
        Violation("quotes", f"market_quote {quote_id.hex()} is of another session than it says")
        for quote_id in QuoteRepository(session).of_other_sessions(VIOLATIONS_MAX)
    ]
