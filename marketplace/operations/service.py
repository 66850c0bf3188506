"""What an operator looks at every morning: the sums, money on its way by age, the invariants."""

from collections.abc import Sequence

from ledger.accounts import AccountCode
from ledger.database import Session
from marketplace.books import check_books
from marketplace.market import Market
from marketplace.operations.repository import BookRepository, OpenItem
from marketplace.operations.schemas import (
    AgeBucket,
    BooksSchema,
    ClearingAccount,
    ClearingList,
    CodeSums,
    SumsSchema,
    ViolationSchema,
)

__all__ = ["books", "clearing", "sums"]

BUCKETS_S = (3600, 86_400, 7 * 86_400)
"""An hour: what is normal; a day: what an operator should know; a week: what should not be."""
PAYOUT_LATE_S = 86_400
"""Sent or looked up within a day, or something is wrong."""
PARKED_LATE_S = 14 * 86_400
"""The time for an appeal."""


def sums(session: Session) -> SumsSchema:
    """The whole book."""
    rows = BookRepository(session).by_code()
    liabilities = {code.value for code in AccountCode if code.is_liability}
    return SumsSchema(
        data=[
            CodeSums(
                code=row.code,
                accounts=row.accounts,
                balance_nanos=row.balance_nanos,
                pending_debits_nanos=row.pending_debits_nanos,
                pending_credits_nanos=row.pending_credits_nanos,
            )
            for row in rows
        ],
        sum_nanos=sum(row.balance_nanos for row in rows),
        liabilities_nanos=sum(row.balance_nanos for row in rows if row.code in liabilities),
    )


def clearing(session: Session, *, now_s: int) -> ClearingList:
    """Everything that must come to nothing again, and how long it has been under way."""
    repository = BookRepository(session)
    payouts, parked = repository.payouts_in_transit(), repository.parked()
    return ClearingList(
        data=[
            _account("holds", repository.open_holds(), now_s, repository.overdue_holds(now_s) > 0),
            _account("payouts", payouts, now_s, _is_older(payouts, now_s, PAYOUT_LATE_S)),
            _account("disputed", parked, now_s, _is_older(parked, now_s, PARKED_LATE_S)),
        ]
    )


def books(session: Session, market: Market) -> BooksSchema:
    """Every invariant, now. Takes as long as the books are thick."""
    violations = check_books(session, market)
    return BooksSchema(
        ok=not violations,
        violations=[
            ViolationSchema(invariant=violation.invariant, detail=violation.detail)
            for violation in violations
        ],
    )


def _account(name: str, items: Sequence[OpenItem], now_s: int, late: bool) -> ClearingAccount:
    buckets, least = [], 0
    for limit in (*BUCKETS_S, None):
        within = [
            item
            for item in items
            if now_s - item.since_s >= least and (limit is None or now_s - item.since_s < limit)
        ]
        buckets.append(
            AgeBucket(
                younger_than_s=limit,
                items=len(within),
                nanos=sum(item.nanos for item in within),
            )
        )
        least = limit or least
    return ClearingAccount(
        name=name,
        items=len(items),
        nanos=sum(item.nanos for item in items),
        oldest_s=now_s - items[0].since_s if items else None,
        late=late,
        buckets=buckets,
    )


def _is_older(items: Sequence[OpenItem], now_s: int, limit_s: int) -> bool:
    return bool(items) and now_s - items[0].since_s > limit_s
