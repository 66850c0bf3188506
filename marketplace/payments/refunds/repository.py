"""Queries of `payments.refunds`."""

from collections.abc import Mapping

from sqlalchemy import select, update
from sqlmodel import Session, col

from ledger.balances import changed_rows
from marketplace.payments.models import ChargebackRow, RefundRow

__all__ = ["ChargebackRepository", "RefundRepository"]

OPEN = ("reserved", "submitted")


class RefundRepository:
    """Money on its way back."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: RefundRow) -> None:
        self._session.add(row)
        self._session.flush()

    def find(self, refund_id: bytes) -> RefundRow | None:
        return self._session.get(RefundRow, refund_id)

    def take_due(self, now_s: int, again_at_s: int) -> RefundRow | None:
        """The one that has waited longest, taken so that no other process has it too."""
        query = (
            select(RefundRow)
            .where(col(RefundRow.state).in_(OPEN), col(RefundRow.next_at_s) <= now_s)
            .order_by(col(RefundRow.next_at_s), col(RefundRow.refund_id))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = self._session.execute(query).scalar_one_or_none()
        if row is not None:
            row.attempts += 1
            row.next_at_s = again_at_s
            self._session.flush()
        return row

    def move(self, refund_id: bytes, state: str, values: Mapping[str, str]) -> bool:
        """To a later state; False where it is over, or there already."""
        statement = (
            update(RefundRow)
            .where(
                col(RefundRow.refund_id) == refund_id,
                col(RefundRow.state).in_(_BEFORE[state]),
            )
            .values(state=state, **values)
        )
        return changed_rows(self._session, statement) == 1

    def set(self, refund_id: bytes, values: Mapping[str, int]) -> None:
        self._session.execute(
            update(RefundRow).where(col(RefundRow.refund_id) == refund_id).values(**values)
        )


_BEFORE: Mapping[str, tuple[str, ...]] = {
    "submitted": ("reserved",),
    "succeeded": OPEN,
    # a card's bank may send the money back weeks later
    "failed": (*OPEN, "succeeded"),
}


class ChargebackRepository:
    """What card holders' banks took."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def lock(self, dispute_id: str) -> ChargebackRow | None:
        return self._session.get(
            ChargebackRow, dispute_id, with_for_update=True, populate_existing=True
        )

    def add(self, row: ChargebackRow) -> None:
        self._session.add(row)
        self._session.flush()

    def close(self, dispute_id: str, state: str, now_s: int) -> None:
        self._session.execute(
            update(ChargebackRow)
            .where(col(ChargebackRow.dispute_id) == dispute_id)
            .values(state=state, closed_at_s=now_s)
        )
