"""Queries of `disputes`."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, case, exists, func, or_, select
from sqlmodel import Session, col

from ledger.dispute_models import (
    DisputeLeaseRow,
    DisputeRow,
    DisputeState,
    EquivocationRow,
    MismatchRow,
)
from ledger.models import HoldRow, LaneRow
from marketplace.disputes.models import StatementRow

__all__ = ["DisputeRepository"]


class DisputeRepository:
    """Disputes, their leases and links, and what was said of them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, dispute_id: bytes) -> DisputeRow | None:
        return self._session.get(DisputeRow, dispute_id)

    def lock(self, dispute_id: bytes) -> DisputeRow | None:
        """As it is now; nobody else rules or is heard on it before this transaction ends."""
        return self._session.get(
            DisputeRow, dispute_id, with_for_update={"key_share": True}, populate_existing=True
        )

    def concerning(
        self, account_id: str, peers: Sequence[str], *, before_s: int, limit: int
    ) -> Sequence[DisputeRow]:
        """Of these machines, or charged to this account; opened before a time, newest first."""
        concerns = exists().where(
            col(DisputeLeaseRow.dispute_id) == col(DisputeRow.dispute_id),
            or_(col(DisputeLeaseRow.buyer) == account_id, col(DisputeLeaseRow.provider).in_(peers)),
        )
        query = (
            select(DisputeRow)
            .where(concerns, col(DisputeRow.opened_at_s) < before_s)
            .order_by(col(DisputeRow.opened_at_s).desc(), col(DisputeRow.dispute_id))
        )
        return self._session.execute(query.limit(limit)).scalars().all()

    def open_ones(self, limit: int) -> Sequence[DisputeRow]:
        """The oldest first."""
        query = (
            select(DisputeRow)
            .where(col(DisputeRow.state) == DisputeState.OPEN.value)
            .order_by(col(DisputeRow.opened_at_s), col(DisputeRow.dispute_id))
        )
        return self._session.execute(query.limit(limit)).scalars().all()

    def leases(self, dispute_id: bytes) -> Sequence[DisputeLeaseRow]:
        query = select(DisputeLeaseRow).where(col(DisputeLeaseRow.dispute_id) == dispute_id)
        ordered = query.order_by(col(DisputeLeaseRow.lease_id))
        return self._session.execute(ordered).scalars().all()

    def mismatches(self, dispute_id: bytes) -> Sequence[MismatchRow]:
        query = select(MismatchRow).where(col(MismatchRow.dispute_id) == dispute_id)
        ordered = query.order_by(col(MismatchRow.hop_index), col(MismatchRow.steps))
        return self._session.execute(ordered).scalars().all()

    def open_links(self, limit: int) -> Sequence[tuple[str, str]]:
        """Machines at both ends of every mismatch that nobody has ruled on; the newest `limit`."""
        query = (
            select(col(MismatchRow.sender), col(MismatchRow.receiver))
            .join(DisputeRow, col(DisputeRow.dispute_id) == col(MismatchRow.dispute_id))
            .where(col(DisputeRow.state) == DisputeState.OPEN.value)
            .order_by(col(DisputeRow.opened_at_s).desc())
            .limit(limit)
        )
        return [(row[0], row[1]) for row in self._session.execute(query)]

    def open_claims_of(self, filed_by: str) -> int:
        query = select(func.count()).where(
            col(DisputeRow.state) == DisputeState.OPEN.value, col(DisputeRow.filed_by) == filed_by
        )
        return int(self._session.execute(query).scalar_one())

    def lane(self, lease_id: bytes) -> Row[Any] | None:
        """A lease's envelope, what it was settled for, and whose hold it was under."""
        query = (
            select(
                col(LaneRow.lease), col(LaneRow.settled),
                col(LaneRow.amount_settled_nanos), col(HoldRow.buyer),
            )
            .join(HoldRow, col(HoldRow.hold_id) == col(LaneRow.hold_id))
            .where(col(LaneRow.lease_id) == lease_id)
        )  # fmt: skip
        return self._session.execute(query).one_or_none()

    def statement(self, statement_id: bytes) -> StatementRow | None:
        return self._session.get(StatementRow, statement_id)

    def statements(self, dispute_id: bytes) -> Sequence[StatementRow]:
        query = select(StatementRow).where(col(StatementRow.dispute_id) == dispute_id)
        ordered = query.order_by(col(StatementRow.made_at_s), col(StatementRow.statement_id))
        return self._session.execute(ordered).scalars().all()

    def add(self, row: StatementRow) -> None:
        self._session.add(row)
        self._session.flush()

    def refusals(self, since_s: int, limit: int) -> Sequence[tuple[str, int, int, int, int]]:
        """By account, over holds whose time was over since: leases, unsigned tails, distinct
        machines among these, equivocations."""
        unsigned = case((and_(col(LaneRow.settled), ~col(LaneRow.final)), 1), else_=0)
        machine = case((~col(LaneRow.final), col(LaneRow.provider)), else_=None)
        query = (
            select(
                col(HoldRow.buyer),
                func.count(),
                func.sum(unsigned),
                func.count(func.distinct(machine)),
                func.count(col(EquivocationRow.lease_id)),
            )
            .join(HoldRow, col(HoldRow.hold_id) == col(LaneRow.hold_id))
            .outerjoin(EquivocationRow, col(EquivocationRow.lease_id) == col(LaneRow.lease_id))
            .where(
                col(LaneRow.settled),
                col(LaneRow.last_sequence) > 0,
                col(HoldRow.settle_by_s) >= since_s,
            )
            .group_by(col(HoldRow.buyer))
            .having(or_(func.sum(unsigned) > 0, func.count(col(EquivocationRow.lease_id)) > 0))
            .order_by(func.sum(unsigned).desc(), col(HoldRow.buyer))
            .limit(limit)
        )
        rows = self._session.execute(query)
        # PostgreSQL sums BIGINT as NUMERIC, which arrives as Decimal
        return [(str(r[0]), int(r[1]), int(r[2]), int(r[3]), int(r[4])) for r in rows]
