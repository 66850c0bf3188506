"""Queries of `earnings`: what machines carried and what became of its pay."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, case, func, or_, select
from sqlmodel import Session, col

from ledger.accounts import AccountCode, AccountRef
from ledger.models import AccountRow, LaneRow
from marketplace.leases.models import SessionHoldRow, SessionRow
from marketplace.payouts.models import HeldRow, PayoutRow, ReleaseRow
from marketplace.payouts.states import SENT
from protocol.money import Nanos

__all__ = ["DAY_S", "EarningsRepository", "HeldSums", "WorkSums"]

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class WorkSums:
    """All leases of one machine for one model begun on one day (days since 1970, UTC)."""

    day: int
    machine: str
    model: str
    sessions: int
    settled_nanos: Nanos
    unsettled_nanos: Nanos
    """Receipts are in; their sessions are not over, or not settled yet."""
    token_layers: int
    bytes_carried: int


@dataclass(frozen=True, slots=True)
class HeldSums:
    """What is held back for one reason."""

    reason: str
    nanos: Nanos
    parts: int
    until_s: int
    """When the last of it is due."""


class EarningsRepository:
    """Earnings of some machines, and of the account they are bound to."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def work(self, machines: Sequence[str], start_s: int, end_s: int) -> Sequence[WorkSums]:
        """By day, machine and model, of sessions begun in [start_s, end_s)."""
        day = col(SessionHoldRow.created_at_s) // DAY_S
        keys = (day, col(LaneRow.provider), col(SessionRow.model))
        is_settled = col(LaneRow.settled).is_(True)
        received = col(LaneRow.amount_received_nanos)
        query = (
            select(
                *keys,
                func.count(),
                func.sum(case((is_settled, col(LaneRow.amount_settled_nanos)), else_=0)),
                func.sum(case((is_settled, 0), else_=received)),
                func.sum(col(LaneRow.prefill_token_layers) + col(LaneRow.decode_token_layers)),
                func.sum(col(LaneRow.bytes_in) + col(LaneRow.bytes_out)),
            )
            .join(SessionHoldRow, col(SessionHoldRow.hold_id) == col(LaneRow.hold_id))
            .join(SessionRow, col(SessionRow.session_id) == col(SessionHoldRow.session_id))
            .where(
                col(LaneRow.provider).in_(machines),
                and_(
                    col(SessionHoldRow.created_at_s) >= start_s,
                    col(SessionHoldRow.created_at_s) < end_s,
                ),
            )
            .group_by(*keys)
            .order_by(*keys)
        )
        # PostgreSQL sums BIGINT as NUMERIC, which arrives as Decimal
        return [
            WorkSums(int(row[0]), row[1], row[2], *(int(value) for value in row[3:]))
            for row in self._session.execute(query)
        ]

    def unsettled(self, machines: Sequence[str]) -> dict[str, Nanos]:
        """By machine: receipts that no settlement has paid yet."""
        query = (
            select(col(LaneRow.provider), func.sum(col(LaneRow.amount_received_nanos)))
            .where(col(LaneRow.provider).in_(machines), col(LaneRow.settled).is_(False))
            .group_by(col(LaneRow.provider))
        )
        return {machine: int(nanos) for machine, nanos in self._session.execute(query)}

    def earned(self, machines: Sequence[str]) -> dict[str, tuple[Nanos, Nanos]]:
        """By machine: credited in all, and what of it is not released yet."""
        names = [AccountRef(AccountCode.PROVIDER_EARNED, machine).name for machine in machines]
        query = select(
            col(AccountRow.owner), col(AccountRow.credits_posted), col(AccountRow.debits_posted)
        ).where(col(AccountRow.name).in_(names))
        return {owner: (cr, cr - dr) for owner, cr, dr in self._session.execute(query)}

    def held(self, account_id: str) -> Sequence[HeldSums]:
        """What is held back now, by reason."""
        reason = col(HeldRow.reason)
        query = (
            select(
                reason,
                func.sum(col(HeldRow.amount_nanos)),
                func.count(),
                func.max(col(HeldRow.until_s)),
            )
            .where(col(HeldRow.account_id) == account_id, col(HeldRow.given_back_at_s).is_(None))
            .group_by(reason)
            .order_by(reason)
        )
        rows = self._session.execute(query)
        return [HeldSums(row[0], *(int(value) for value in row[1:])) for row in rows]

    def paid_nanos(self, account_id: str) -> Nanos:
        """In payouts whose transfer the processor has, and of which nothing came back."""
        query = select(func.coalesce(func.sum(col(PayoutRow.amount_nanos)), 0)).where(
            col(PayoutRow.account_id) == account_id,
            col(PayoutRow.state).in_([state.value for state in SENT]),
        )
        return int(self._session.execute(query).scalar_one())

    def releases(
        self, account_id: str, *, after: tuple[int, str] | None, limit: int
    ) -> Sequence[ReleaseRow]:
        """The newest periods first, and within one by machine; from behind `after`, such a pair."""
        period, machine = col(ReleaseRow.period_s), col(ReleaseRow.machine)
        query = select(ReleaseRow).where(col(ReleaseRow.account_id) == account_id)
        if after is not None:
            same = and_(period == after[0], machine > after[1])
            query = query.where(or_(period < after[0], same))
        query = query.order_by(period.desc(), machine).limit(limit)
        return self._session.execute(query).scalars().all()
