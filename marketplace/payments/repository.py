"""Queries of `payments`: top-ups and how they are paid."""

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select, update
from sqlmodel import Session, col

from ledger.balances import changed_rows
from marketplace.payments.models import (
    ChargebackRow,
    PaymentEventRow,
    PaymentRow,
    RechargeRow,
    RefundRow,
    TopupRow,
)
from marketplace.payments.risk import DAY_S, PaidHistory
from protocol.money import Nanos

__all__ = ["TopupRepository"]


class TopupRepository:
    """Top-ups, their payments, and the events that paid them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, topup_id: bytes) -> TopupRow | None:
        return self._session.get(TopupRow, topup_id)

    def payment(self, topup_id: bytes) -> PaymentRow:
        """How it is paid; made together with the top-up."""
        return self._session.get_one(PaymentRow, topup_id)

    def lock(self, topup_id: bytes) -> TopupRow | None:
        """The top-up; nobody else acts on an event for it before this transaction ends."""
        return self._session.get(TopupRow, topup_id, with_for_update=True)

    def add(self, row: TopupRow, payment: PaymentRow) -> None:
        self._session.add(row)
        self._session.flush()
        self._session.add(payment)
        self._session.flush()

    def set_checkout(self, topup_id: bytes, url: str, values: Mapping[str, str | int]) -> None:
        """Where the buyer pays, and the payment's columns that come with it."""
        self._session.execute(
            update(TopupRow).where(col(TopupRow.topup_id) == topup_id).values(checkout_url=url)
        )
        self.set_payment(topup_id, values)

    def set_payment(self, topup_id: bytes, values: Mapping[str, str | int]) -> None:
        self._session.execute(
            update(PaymentRow).where(col(PaymentRow.topup_id) == topup_id).values(**values)
        )

    def next_attempt(self, topup_id: bytes, attempt: int) -> None:
        """The next checkout gets a key of its own; said twice of the same attempt, once."""
        self._session.execute(
            update(PaymentRow)
            .where(col(PaymentRow.topup_id) == topup_id, col(PaymentRow.attempt) == attempt)
            .values(attempt=attempt + 1)
        )

    def by_payment(self, payment_id: str) -> PaymentRow | None:
        query = select(PaymentRow).where(col(PaymentRow.payment_id) == payment_id)
        return self._session.execute(query).scalar_one_or_none()

    def is_known(self, event_id: str) -> bool:
        return self._session.get(PaymentEventRow, event_id) is not None

    def add_event(self, row: PaymentEventRow) -> None:
        self._session.add(row)
        self._session.flush()

    def mark_paid(self, topup_id: bytes, now_s: int) -> bool:
        """False if it was paid before; decided by the database, so at any concurrency once."""
        statement = (
            update(TopupRow)
            .where(col(TopupRow.topup_id) == topup_id)
            .where(col(TopupRow.paid_at_s).is_(None))
            .values(paid_at_s=now_s)
        )
        return changed_rows(self._session, statement) == 1

    def take_refund(self, topup_id: bytes, amount: Nanos, amount_max: Nanos) -> bool:
        """Count a refund against its top-up; False where more would go back than was paid."""
        statement = (
            update(PaymentRow)
            .where(
                col(PaymentRow.topup_id) == topup_id,
                col(PaymentRow.refunded_nanos) + amount <= amount_max,
            )
            .values(refunded_nanos=col(PaymentRow.refunded_nanos) + amount)
        )
        return changed_rows(self._session, statement) == 1

    def give_refund_back(self, topup_id: bytes, amount: Nanos) -> None:
        """A refund has failed."""
        self._session.execute(
            update(PaymentRow)
            .where(col(PaymentRow.topup_id) == topup_id)
            .values(refunded_nanos=col(PaymentRow.refunded_nanos) - amount)
        )

    def has_open_page(self, topup_id: bytes, now_s: int) -> bool:
        """Whether it is paid, or has a page where it can be."""
        row, payment = self._session.get_one(TopupRow, topup_id), self.payment(topup_id)
        is_over = 0 < payment.expires_at_s <= now_s
        return row.paid_at_s is not None or (bool(row.checkout_url) and not is_over)

    def open_again(self, topup_id: bytes, now_s: int) -> None:
        """From now on it counts as made today."""
        unpaid = update(TopupRow).where(
            col(TopupRow.topup_id) == topup_id, col(TopupRow.paid_at_s).is_(None)
        )
        self._session.execute(unpaid.values(created_at_s=now_s))

    def history(self, account_id: str, now_s: int, *, but: bytes | None = None) -> PaidHistory:
        """What the account has paid so far; `but`: a top-up that is not counted as today's."""
        paid = select(
            func.coalesce(func.sum(TopupRow.amount_nanos), 0), func.min(TopupRow.paid_at_s)
        ).where(col(TopupRow.account_id) == account_id, col(TopupRow.paid_at_s).is_not(None))
        total, first = self._session.execute(paid).one()
        # an open page can still be paid, so it counts as if it were
        is_open = col(TopupRow.paid_at_s).is_(None) & (col(PaymentRow.expires_at_s) > now_s)
        since_s = func.coalesce(TopupRow.paid_at_s, TopupRow.created_at_s)
        today = (
            select(func.coalesce(func.sum(TopupRow.amount_nanos), 0))
            .join(PaymentRow, col(PaymentRow.topup_id) == col(TopupRow.topup_id))
            .where(col(TopupRow.account_id) == account_id)
            .where((since_s > now_s - DAY_S) | is_open)
        )
        if but is not None:
            today = today.where(col(TopupRow.topup_id) != but)
        complaints = (
            select(func.count())
            .select_from(ChargebackRow)
            .where(col(ChargebackRow.account_id) == account_id, col(ChargebackRow.state) != "won")
        )
        return PaidHistory(
            paid_nanos=int(total),
            first_paid_at_s=first,
            today_nanos=int(self._session.execute(today).scalar_one()),
            chargebacks=self._session.execute(complaints).scalar_one(),
        )

    def page(
        self, account_id: str, limit: int
    ) -> Sequence[tuple[TopupRow, PaymentRow, RechargeRow | None]]:
        """The account's top-ups, newest first."""
        query = (
            select(TopupRow, PaymentRow, RechargeRow)
            .join(PaymentRow, col(PaymentRow.topup_id) == col(TopupRow.topup_id))
            .outerjoin(RechargeRow, col(RechargeRow.topup_id) == col(TopupRow.topup_id))
            .where(col(TopupRow.account_id) == account_id)
            .order_by(col(TopupRow.created_at_s).desc(), col(TopupRow.topup_id))
            .limit(limit)
        )
        return [(row[0], row[1], row[2]) for row in self._session.execute(query)]

    def refunds(self, account_id: str, limit: int) -> Sequence[RefundRow]:
        """The account's refunds, newest first."""
        query = (
            select(RefundRow)
            .where(col(RefundRow.account_id) == account_id)
            .order_by(col(RefundRow.created_at_s).desc(), col(RefundRow.refund_id))
            .limit(limit)
        )
        return self._session.execute(query).scalars().all()
