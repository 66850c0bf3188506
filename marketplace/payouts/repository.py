"""Queries of `payouts`: the payouts themselves, recipients, terms and alarms."""

from collections.abc import Collection, Sequence

from sqlalchemy import exists, func
from sqlmodel import Session, col, select

from ledger.accounts import AccountCode
from ledger.database import insert_missing, metadata
from ledger.models import AccountRow
from marketplace.payments.processor import NANOS_PER_CENT
from marketplace.payouts.models import AlarmRow, PayoutRow, PayoutTermsRow, RecipientRow
from marketplace.payouts.schedule import Due
from marketplace.payouts.states import OPEN, PayoutState
from marketplace.standing.models import FreezeRow

__all__ = ["PayoutRepository", "RecipientRepository"]


class PayoutRepository:
    """Payouts and their alarms."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, payout_id: bytes) -> PayoutRow | None:
        return self._session.get(PayoutRow, payout_id)

    def lock(self, payout_id: bytes) -> PayoutRow | None:
        """The payout as it is now; nobody else moves it before this transaction ends."""
        return self._session.get(PayoutRow, payout_id, with_for_update=True, populate_existing=True)

    def add(self, row: PayoutRow) -> None:
        self._session.add(row)
        self._session.flush()

    def save(self) -> None:
        """Send what was changed on locked rows to the database, where its checks are."""
        self._session.flush()

    def open_of(self, account_id: str) -> PayoutRow | None:
        query = select(PayoutRow).where(
            PayoutRow.account_id == account_id, col(PayoutRow.state).in_(OPEN)
        )
        return self._session.exec(query).one_or_none()

    def find_transfer(self, transfer_id: str) -> PayoutRow | None:
        query = select(PayoutRow).where(PayoutRow.transfer_id == transfer_id)
        return self._session.exec(query).one_or_none()

    def of_account(self, account_id: str, *, before_s: int, limit: int) -> Sequence[PayoutRow]:
        """Newest first, made before `before_s`."""
        query = select(PayoutRow).where(
            PayoutRow.account_id == account_id, PayoutRow.created_at_s < before_s
        )
        newest = query.order_by(col(PayoutRow.created_at_s).desc(), col(PayoutRow.payout_id))
        return self._session.exec(newest.limit(limit)).all()

    def at_recipient(self, recipient: str, states: Collection[PayoutState]) -> Sequence[PayoutRow]:
        """Payouts of the account behind a recipient in these states, locked."""
        query = (
            select(PayoutRow)
            .join(RecipientRow, col(RecipientRow.account_id) == col(PayoutRow.account_id))
            .where(RecipientRow.recipient == recipient, PayoutRow.recipient == recipient)
            .where(col(PayoutRow.state).in_(states))
            .order_by(col(PayoutRow.payout_id))
            .with_for_update(of=PayoutRow)
        )
        return self._session.exec(query).all()

    def overdue(self, now_s: int) -> PayoutRow | None:
        """One payout whose submission nobody has answered for in time, locked."""
        query = (
            select(PayoutRow)
            .where(
                PayoutRow.state == PayoutState.SUBMITTING,
                col(PayoutRow.deadline_s) <= now_s,
            )
            .order_by(col(PayoutRow.deadline_s), col(PayoutRow.payout_id))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        return self._session.exec(query).one_or_none()

    def held_for(self, reason: str, limit: int) -> Sequence[PayoutRow]:
        """The oldest first, locked; another worker's are passed over."""
        query = select(PayoutRow).where(
            PayoutRow.state == PayoutState.HELD, PayoutRow.reason == reason
        )
        query = query.order_by(col(PayoutRow.created_at_s)).limit(limit)
        return self._session.exec(query.with_for_update(skip_locked=True)).all()

    def accounts_due(self, due: Due, *, after: str, limit: int) -> Sequence[tuple[str, int]]:
        """Accounts for which a weekly payout may begin now, and their payable nanos; in order of
        account, from after the one that is named. Frozen accounts are not among them.
        """
        payable = col(AccountRow.credits_posted) - col(AccountRow.debits_posted)
        owner, state = col(AccountRow.owner), col(PayoutRow.state)
        gone = state.in_((PayoutState.FAILED, PayoutState.CANCELED))
        in_the_way = exists().where(
            col(PayoutRow.account_id) == owner,
            state.in_(OPEN)
            | (~gone & (col(PayoutRow.origin) == "weekly") & (PayoutRow.created_at_s >= due.week_s))
            | (gone & (col(PayoutRow.changed_at_s) > due.refused_since_s)),
        )
        frozen = exists().where(
            col(FreezeRow.account_id) == owner, col(FreezeRow.lifted_at_s).is_(None)
        )
        terms = col(PayoutTermsRow.account_id)
        minimum_cents = func.coalesce(PayoutTermsRow.minimum_cents, due.minimum_cents)
        query = (
            select(AccountRow.owner, payable)
            .join(RecipientRow, col(RecipientRow.account_id) == owner)
            .join(PayoutTermsRow, terms == owner, isouter=True)
            .where(
                AccountRow.code == AccountCode.PROVIDER_PAYABLE.value,
                owner > after,
                col(RecipientRow.payouts_enabled),
                func.coalesce(PayoutTermsRow.schedule, "weekly") == "weekly",
                payable >= minimum_cents * NANOS_PER_CENT,
                ~in_the_way,
                ~frozen,
            )
            .order_by(owner)
            .limit(limit)
        )
        return [(account, int(nanos)) for account, nanos in self._session.exec(query).all()]

    def raise_alarm(
        self, payout_id: bytes, kind: str, detail: str, *, attempt: int, now_s: int
    ) -> None:
        row = {
            "payout_id": payout_id,
            "kind": kind,
            "attempt": attempt,
            "detail": detail[:500],
            "raised_at_s": now_s,
        }
        insert_missing(self._session, metadata.tables[AlarmRow.__tablename__], [row])

    def alarms(self, *, unseen_only: bool, limit: int) -> Sequence[AlarmRow]:
        """Newest first."""
        query = select(AlarmRow).order_by(col(AlarmRow.id).desc()).limit(limit)
        if unseen_only:
            query = query.where(col(AlarmRow.seen_at_s).is_(None))
        return self._session.exec(query).all()


class RecipientRepository:
    """Where accounts are paid, and on which terms."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, account_id: str) -> RecipientRow | None:
        return self._session.get(RecipientRow, account_id)

    def lock(self, account_id: str) -> RecipientRow | None:
        return self._session.get(
            RecipientRow, account_id, with_for_update=True, populate_existing=True
        )

    def lock_by_name(self, recipient: str) -> RecipientRow | None:
        query = select(RecipientRow).where(RecipientRow.recipient == recipient)
        return self._session.exec(query.with_for_update()).one_or_none()

    def add_missing(self, account_id: str, recipient: str, country: str, now_s: int) -> None:
        row = {
            "account_id": account_id,
            "recipient": recipient,
            "country": country,
            "payouts_enabled": False,
            "missing": "",
            "created_at_s": now_s,
            "bank_paid_at_s": 0,
            "bank_failed_at_s": 0,
        }
        insert_missing(self._session, metadata.tables[RecipientRow.__tablename__], [row])

    def has_payouts(self, row: RecipientRow) -> bool:
        """Whether any payout, whatever became of it, was for this very recipient."""
        query = select(PayoutRow.payout_id).where(
            PayoutRow.account_id == row.account_id, PayoutRow.recipient == row.recipient
        )
        return self._session.exec(query.limit(1)).first() is not None

    def save(self) -> None:
        self._session.flush()

    def terms(self, account_id: str) -> PayoutTermsRow | None:
        return self._session.get(PayoutTermsRow, account_id)

    def add_terms(self, row: PayoutTermsRow) -> None:
        self._session.add(row)
        self._session.flush()
