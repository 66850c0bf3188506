"""Queries of `ledger_pages`."""

from collections.abc import Mapping

from sqlmodel import Session, col, select

from ledger.accounts import AccountCode
from ledger.models import AccountRow
from protocol.money import Nanos

__all__ = ["ProviderRepository"]


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
