"""Whether payouts and releases agree with the book: I11, and what stands beside it."""

from ledger.database import Session
from ledger.invariants import Violation
from marketplace.payouts.rules.repository import RULES, RuleRepository

__all__ = ["check"]

VIOLATIONS_PER_RULE_MAX = 20
"""Enough to see what is wrong; the first is what matters."""


def check(session: Session) -> list[Violation]:
    """Every rule that is broken now.

    I11: a payout has at most one transfer at the processor; what is posted as sent is the sum of
    the payouts that have one; every state has its postings with the payout's amount; what is in
    transit is the open payouts. `releases`: a release is what settlement credited that day, its
    parts add up, and each has its posting.
    """
    repository = RuleRepository(session)
    return [
        Violation(rule, detail)
        for rule, queries in RULES.items()
        for query in queries
        for detail in repository.broken(query, VIOLATIONS_PER_RULE_MAX)
    ]
