"""Queries of `ledger_pages`."""

from collections.abc import Mapping, Sequence

from sqlmodel import Session, col, select

from ledger.accounts import AccountCode
from ledger.models import AccountRow, LaneRow, ReceiptRow
from marketplace.leases.models import SessionHoldRow
from protocol.money import Nanos

__all__ = ["LEASES_MAX", "ProviderRepository", "ReceiptRepository"]

LEASES_MAX = 512
"""Of one session: 64 hops, and each repair may bring others."""


class ProviderRepository:
    """Every provider's earnings."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def earned(self, after: str, limit: int) -> Mapping[str, Nanos]:
        """Earnings in all by PeerId text, in that order, behind `after`."""
        query = (
            select(AccountRow.owner, AccountRow.credits_posted)
            .where(AccountRow.code == AccountCode.PROVIDER_EARNED.value)
            .where(col(AccountRow.owner) > after)
            .order_by(col(AccountRow.owner))
            .limit(limit)
        )
        return dict(self._session.exec(query).all())


class ReceiptRepository:
    """Where the log has the receipts that count: of each lease that of the largest sequence."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def of_lease(self, lease_id: bytes) -> Sequence[tuple[bytes, int, int]]:
        """(lease, sequence, leaf index); none if no receipt came."""
        return self._session.exec(_COUNTING.where(LaneRow.lease_id == lease_id)).all()

    def of_session(self, session_id: bytes) -> Sequence[tuple[bytes, int, int]]:
        """The same of every lease of a session, in the log's order; at most LEASES_MAX."""
        query = _COUNTING.join(
            SessionHoldRow, col(SessionHoldRow.hold_id) == col(LaneRow.hold_id)
        ).where(SessionHoldRow.session_id == session_id)
        return self._session.exec(query.limit(LEASES_MAX)).all()


_COUNTING = (
    select(ReceiptRow.lease_id, ReceiptRow.sequence, ReceiptRow.leaf_index)
    .join(
        LaneRow,
        (col(LaneRow.lease_id) == col(ReceiptRow.lease_id))
        & (col(LaneRow.last_sequence) == col(ReceiptRow.sequence)),
    )
    .order_by(col(ReceiptRow.leaf_index))
)
