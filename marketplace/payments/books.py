"""What must hold of payments at every commit, for `piecework-market check`.

A top-up is paid where the book says so, and for the same amount; a refund left the balance once and
came back only where it failed; a chargeback's parts are its movements. I13: nothing that the last
reconciliation found is open.
"""

from ledger.database import Session
from ledger.invariants import Violation
from marketplace.payments.reconciling.repository import broken

__all__ = ["check"]


def check(session: Session) -> list[Violation]:
    """Every rule that is broken now, a few rows each; a healthy database gives none."""
    return [Violation(rule, detail) for rule, detail in broken(session)]
