"""Queries of `operations`: approvals, the book by code, and what is under way for how long."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlmodel import Session, col

from ledger.models import AccountRow, HoldRow, TransferRow
from marketplace.leases.models import SessionHoldRow
from marketplace.operations.models import ApprovalRow
from marketplace.payouts.models import PayoutRow
from marketplace.payouts.states import IN_TRANSIT
from protocol.money import Nanos

__all__ = ["ApprovalRepository", "BookRepository", "CodeTotals", "OpenItem"]

ITEMS_MAX = 100_000
"""Open holds or payouts that are looked at for one page; more than that is its own alarm."""


@dataclass(frozen=True, slots=True)
class OpenItem:
    """Something under way since then."""

    since_s: int
    nanos: Nanos


@dataclass(frozen=True, slots=True)
class CodeTotals:
    """All accounts of one code."""

    code: str
    accounts: int
    balance_nanos: Nanos
    pending_debits_nanos: Nanos
    pending_credits_nanos: Nanos


class ApprovalRepository:
    """Approvals."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, approval_id: bytes, *, lock: bool = False) -> ApprovalRow | None:
        return self._session.get(ApprovalRow, approval_id, with_for_update=lock)

    def add(self, row: ApprovalRow) -> None:
        self._session.add(row)
        self._session.flush()

    def decide(self, row: ApprovalRow, by: str, outcome: str, now_s: int) -> None:
        row.decided_by, row.decided_at_s, row.outcome = by, now_s, outcome
        self._session.flush()

    def newest(self, limit: int, *, open_only: bool) -> Sequence[ApprovalRow]:
        query = select(ApprovalRow).order_by(
            col(ApprovalRow.asked_at_s).desc(), col(ApprovalRow.approval_id)
        )
        if open_only:
            query = query.where(col(ApprovalRow.outcome).is_(None))
        return self._session.execute(query.limit(limit)).scalars().all()


class BookRepository:
    """The ledger as an operator looks at it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def by_code(self) -> Sequence[CodeTotals]:
        """Every code that has an account."""
        code = col(AccountRow.code)
        query = select(
            code,
            func.count(),
            func.sum(col(AccountRow.credits_posted) - col(AccountRow.debits_posted)),
            func.sum(col(AccountRow.debits_pending)),
            func.sum(col(AccountRow.credits_pending)),
        )
        rows = self._session.execute(query.group_by(code).order_by(code)).all()
        # PostgreSQL sums BIGINT as NUMERIC, which arrives as Decimal
        return [CodeTotals(str(row[0]), *(int(value) for value in row[1:])) for row in rows]

    def open_holds(self) -> Sequence[OpenItem]:
        """Holds that are neither posted nor released, the oldest first."""
        query = (
            select(col(SessionHoldRow.created_at_s), col(HoldRow.amount_nanos))
            .join(HoldRow, col(HoldRow.hold_id) == col(SessionHoldRow.hold_id))
            .where(col(HoldRow.charged_nanos).is_(None))
            .order_by(col(SessionHoldRow.created_at_s))
        )
        return self._items(query)

    def overdue_holds(self, now_s: int) -> int:
        """Those whose time for receipts is over, and that nobody has settled."""
        overdue: ColumnElement[bool] = col(HoldRow.settle_by_s) < now_s
        query = select(func.count()).where(col(HoldRow.charged_nanos).is_(None), overdue)
        return int(self._session.execute(query).scalar_one())

    def payouts_in_transit(self) -> Sequence[OpenItem]:
        """Payouts whose outcome is not known, the oldest first."""
        query = (
            select(col(PayoutRow.created_at_s), col(PayoutRow.amount_nanos))
            .where(col(PayoutRow.state).in_([state.value for state in IN_TRANSIT]))
            .order_by(col(PayoutRow.created_at_s))
        )
        return self._items(query)

    def parked(self) -> Sequence[OpenItem]:
        """Accounts of disputes that hold money, by when it came there; the oldest first."""
        left = col(AccountRow.credits_posted) - col(AccountRow.debits_posted)
        query = (
            select(func.min(col(TransferRow.created_at_s)), left)
            .join(TransferRow, col(TransferRow.credit) == col(AccountRow.name))
            .where(col(AccountRow.code) == "disputed", left > 0)
            .group_by(col(AccountRow.name), left)
            .order_by(func.min(col(TransferRow.created_at_s)))
        )
        return self._items(query)

    def _items(self, query: object) -> Sequence[OpenItem]:
        rows = self._session.execute(query.limit(ITEMS_MAX)).all()  # type: ignore[attr-defined]
        return [OpenItem(int(since_s), int(nanos)) for since_s, nanos in rows]
