"""Queries of releases: what settlement credited, by machine, day and buyer; what is held."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, case, cast, exists, func
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from ledger.accounts import AccountCode, AccountRef
from ledger.models import AccountRow, TransferCode, TransferRow
from marketplace.payouts.models import HeldRow, PayoutTermsRow, ReleaseRow
from marketplace.payouts.terms import HeldReason
from marketplace.standing.models import FreezeRow, LinkAllowedRow
from marketplace.standing.tiers import DAY_S

__all__ = ["CREDIT_CODES", "Credit", "ReleaseRepository"]

CREDIT_CODES = ("settle", "ruling")
"""Of transfers that credit PROVIDER_EARNED."""
_HOLD_HEX = 32
_BUYER_CASH = f"{AccountCode.BUYER_CASH.value}:"


@dataclass(frozen=True, slots=True)
class Credit:
    """What one buyer paid a machine in one period. `buyer` is "" where a ruling credited it."""

    period_s: int
    buyer: str
    amount_nanos: int


class ReleaseRepository:
    """Releases, and the credits behind them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def machines_with_earnings(self, *, after: str, limit: int) -> Sequence[str]:
        """PeerIds whose earnings are not all released, in order, from after the one named."""
        query = select(AccountRow.owner).where(
            AccountRow.code == AccountCode.PROVIDER_EARNED.value,
            col(AccountRow.credits_posted) > col(AccountRow.debits_posted),
            AccountRow.owner > after,
        )
        return self._session.exec(query.order_by(AccountRow.owner).limit(limit)).all()

    def released_until_s(self, machine: str) -> int:
        """End of the machine's last released period; 0 where there is none."""
        query = select(func.max(ReleaseRow.period_s)).where(ReleaseRow.machine == machine)
        last_s = self._session.exec(query).one()
        return 0 if last_s is None else last_s + DAY_S

    def credits(self, machine: str, since_s: int, until_s: int) -> Sequence[Credit]:
        """Credits of the machine settled in [since, until), by day and buyer, the oldest first."""
        credit, charge = aliased(TransferRow), aliased(TransferRow)
        # whole days: integer division means another thing to each database
        period = col(credit.created_at_s) - col(credit.created_at_s) % DAY_S
        debit = func.coalesce(charge.debit, "")
        buyer = case(
            (
                debit.startswith(_BUYER_CASH, autoescape=True),
                func.substr(debit, len(_BUYER_CASH) + 1),
            ),
            else_="",
        )
        query = (
            select(period, buyer, cast(func.sum(credit.amount_nanos), BigInteger))
            .join(
                charge,
                (col(charge.code) == TransferCode.POST_HOLD.value)
                & (col(charge.ref) == func.substr(credit.ref, 1, _HOLD_HEX)),
                isouter=True,
            )
            .where(
                credit.credit == AccountRef(AccountCode.PROVIDER_EARNED, machine).name,
                col(credit.code).in_(CREDIT_CODES),
                col(credit.created_at_s) >= since_s,
                col(credit.created_at_s) < until_s,
            )
            .group_by(period, buyer)
            .order_by(period, buyer)
        )
        rows = self._session.exec(query).all()
        return [Credit(int(start), owner, int(amount)) for start, owner, amount in rows]

    def first_period_s(self, account_id: str) -> int | None:
        """Start of the first period that was released to the account."""
        query = select(func.min(ReleaseRow.period_s)).where(ReleaseRow.account_id == account_id)
        return self._session.exec(query).one()

    def add(self, release: ReleaseRow, held: Sequence[HeldRow]) -> None:
        self._session.add(release)
        self._session.flush()
        self._session.add_all(held)
        self._session.flush()

    def due(self, now_s: int, exited_before_s: int, limit: int) -> Sequence[HeldRow]:
        """Held parts to be given back, locked: their time is over, their account left gracefully
        by `exited_before_s`, or an operator allowed the link. Not of frozen accounts.
        """
        part = col(HeldRow.account_id)
        left = exists().where(
            col(PayoutTermsRow.account_id) == part,
            col(PayoutTermsRow.exit_at_s) <= exited_before_s,
        )
        allowed = exists().where(
            col(LinkAllowedRow.provider_account) == part,
            col(LinkAllowedRow.buyer_account) == col(HeldRow.buyer),
        )
        frozen = exists().where(
            col(FreezeRow.account_id) == part, col(FreezeRow.lifted_at_s).is_(None)
        )
        reason = col(HeldRow.reason)
        query = (
            select(HeldRow)
            .where(col(HeldRow.given_back_at_s).is_(None), ~frozen)
            .where(
                (col(HeldRow.until_s) <= now_s)
                | ((reason == HeldReason.RESERVE.value) & left)
                | ((reason == HeldReason.LINKED_BUYER.value) & allowed)
            )
            .order_by(col(HeldRow.until_s), col(HeldRow.machine), col(HeldRow.period_s))
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return self._session.exec(query).all()

    def save(self) -> None:
        self._session.flush()

    def of_account(self, account_id: str, *, since_s: int, limit: int) -> Sequence[ReleaseRow]:
        """Newest period first."""
        query = select(ReleaseRow).where(
            ReleaseRow.account_id == account_id, ReleaseRow.period_s >= since_s
        )
        newest = query.order_by(col(ReleaseRow.period_s).desc(), col(ReleaseRow.machine))
        return self._session.exec(newest.limit(limit)).all()

    def held_of(self, account_id: str, *, limit: int) -> Sequence[HeldRow]:
        """What is held now, the soonest due first."""
        query = select(HeldRow).where(
            HeldRow.account_id == account_id, col(HeldRow.given_back_at_s).is_(None)
        )
        return self._session.exec(query.order_by(col(HeldRow.until_s)).limit(limit)).all()
