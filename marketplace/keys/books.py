"""What must hold of keys' budgets at every commit, for `piecework-market check`.

What is reserved of a budget is its period's holds that are not settled, what is spent their
charges; its open sessions are the holds that say so.
"""

from ledger.database import Session
from ledger.invariants import Violation
from marketplace.keys.repository import BudgetRepository

__all__ = ["check"]

VIOLATIONS_MAX = 20
"""Enough to see what is wrong."""


def check(session: Session) -> list[Violation]:
    """Every budget that is not the sum of its holds; a healthy database gives none."""
    broken = BudgetRepository(session).unlike_their_holds(VIOLATIONS_MAX)
    return [
        Violation("budgets", f"market_budget {budget_id} differs from its holds")
        for budget_id in broken
    ]
