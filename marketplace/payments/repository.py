"""Queries of `payments`."""

from sqlalchemy import update
from sqlmodel import Session, col

from marketplace.payments.models import PaymentEventRow, TopupRow

__all__ = ["TopupRepository"]


class TopupRepository:
    """Top-ups and the events that paid them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, topup_id: bytes) -> TopupRow | None:
        return self._session.get(TopupRow, topup_id)

    def lock(self, topup_id: bytes) -> TopupRow | None:
        """The top-up; nobody else acts on an event for it before this transaction ends."""
        return self._session.get(TopupRow, topup_id, with_for_update=True)

    def add(self, row: TopupRow) -> None:
        self._session.add(row)
        self._session.flush()

    def set_checkout(self, topup_id: bytes, url: str) -> None:
        self._session.execute(
            update(TopupRow).where(col(TopupRow.topup_id) == topup_id).values(checkout_url=url)
        )

    def is_known(self, event_id: str) -> bool:
        return self._session.get(PaymentEventRow, event_id) is not None

    def add_event(self, row: PaymentEventRow) -> None:
        self._session.add(row)
        self._session.flush()

    def mark_paid(self, topup_id: bytes, now_s: int) -> bool:
        """False if it was paid before; decided by the database, so at any concurrency once."""
        return (
            self._session.connection()
            .execute(
                update(TopupRow)
                .where(col(TopupRow.topup_id) == topup_id)
                .where(col(TopupRow.paid_at_s).is_(None))
                .values(paid_at_s=now_s)
            )
            .rowcount
            == 1
        )
