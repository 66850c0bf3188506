"""Queries of `payments.cards`."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Select, func, select, update
from sqlmodel import Session, col

from ledger.accounts import AccountCode
from ledger.balances import changed_rows
from ledger.database import insert_missing, metadata
from ledger.models import AccountRow
from marketplace.payments.models import BillingRow, RechargeRow
from protocol.money import Nanos

__all__ = ["BillingRepository", "RechargeRepository"]

_BILLING = metadata.tables[BillingRow.__tablename__]


class BillingRepository:
    """Accounts at the processor."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, account_id: str) -> BillingRow | None:
        return self._session.get(BillingRow, account_id)

    def lock(self, account_id: str) -> BillingRow:
        """The row, made where there is none; nobody else decides for this account meanwhile."""
        empty: dict[str, object] = {"account_id": account_id, "recharge_enabled": False}
        texts = ("customer", "card_id", "card_brand", "card_last4", "setup_checkout_id")
        numbers = ("threshold_nanos", "amount_nanos", "monthly_nanos_max", "changed_at_s")
        empty |= dict.fromkeys((*texts, "stopped_reason"), "")
        empty |= dict.fromkeys((*numbers, "card_expiry_month", "card_expiry_year"), 0)
        insert_missing(self._session, _BILLING, [empty])
        return self._session.get_one(
            BillingRow, account_id, with_for_update=True, populate_existing=True
        )

    def set(self, account_id: str, values: Mapping[str, str | int | bool]) -> None:
        self._session.execute(
            update(BillingRow).where(col(BillingRow.account_id) == account_id).values(**values)
        )

    def due(self, after: str, limit: int) -> Sequence[str]:
        """Accounts below their threshold that have no charge under way, by id, `after` one."""
        query = self._due().where(col(BillingRow.account_id) > after)
        query = query.order_by(col(BillingRow.account_id)).limit(limit)
        return self._session.execute(query).scalars().all()

    def is_due(self, account_id: str) -> bool:
        """Whether this account is one of them now."""
        query = self._due().where(col(BillingRow.account_id) == account_id)
        return self._session.execute(query).scalar_one_or_none() is not None

    def _due(self) -> Select[str]:
        available = (
            col(AccountRow.credits_posted)
            - col(AccountRow.debits_posted)
            - col(AccountRow.debits_pending)
        )
        name = f"{AccountCode.BUYER_CASH.value}:" + col(BillingRow.account_id)
        under_way = select(col(RechargeRow.topup_id)).where(
            col(RechargeRow.account_id) == col(BillingRow.account_id),
            col(RechargeRow.state) == "open",
        )
        return (
            select(col(BillingRow.account_id))
            .outerjoin(AccountRow, col(AccountRow.name) == name)
            .where(
                col(BillingRow.recharge_enabled),
                func.coalesce(available, 0) < col(BillingRow.threshold_nanos),
                ~under_way.exists(),
            )
        )


class RechargeRepository:
    """Charges of saved cards."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: RechargeRow) -> None:
        self._session.add(row)
        self._session.flush()

    def get(self, topup_id: bytes) -> RechargeRow:
        return self._session.get_one(RechargeRow, topup_id, populate_existing=True)

    def find(self, topup_id: bytes) -> RechargeRow | None:
        return self._session.get(RechargeRow, topup_id)

    def open_of(self, account_id: str) -> RechargeRow | None:
        query = select(RechargeRow).where(
            col(RechargeRow.account_id) == account_id, col(RechargeRow.state) == "open"
        )
        return self._session.execute(query).scalar_one_or_none()

    def month_nanos(self, account_id: str, month: str) -> Nanos:
        """What was charged in a month, and what is being charged."""
        query = select(func.coalesce(func.sum(RechargeRow.amount_nanos), 0)).where(
            col(RechargeRow.account_id) == account_id,
            col(RechargeRow.month) == month,
            col(RechargeRow.state) != "failed",
        )
        return int(self._session.execute(query).scalar_one())

    def take_due(self, now_s: int, again_at_s: int) -> RechargeRow | None:
        """The charge that has waited longest, taken so that no other process has it too."""
        query = (
            select(RechargeRow)
            .where(col(RechargeRow.state) == "open", col(RechargeRow.next_at_s) <= now_s)
            .order_by(col(RechargeRow.next_at_s), col(RechargeRow.topup_id))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = self._session.execute(query).scalar_one_or_none()
        if row is not None:
            row.attempts += 1
            row.next_at_s = again_at_s
            self._session.flush()
        return row

    def finish(self, topup_id: bytes, state: str) -> bool:
        """False where it was finished before; what failed by one word may be paid by a later."""
        before = ("open", "failed") if state == "paid" else ("open",)
        statement = (
            update(RechargeRow)
            .where(col(RechargeRow.topup_id) == topup_id, col(RechargeRow.state).in_(before))
            .values(state=state)
        )
        return changed_rows(self._session, statement) == 1

    def set(self, topup_id: bytes, values: Mapping[str, int]) -> None:
        self._session.execute(
            update(RechargeRow).where(col(RechargeRow.topup_id) == topup_id).values(**values)
        )
