"""Queries of `accounts`."""

from sqlmodel import Session

from marketplace.accounts.models import BuyerRow

__all__ = ["AccountRepository"]


class AccountRepository:
    """Buyers."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: BuyerRow) -> None:
        self._session.add(row)
        self._session.flush()

    def lock(self, account_id: str) -> None:
        """Until the transaction ends nobody else counts what belongs to it, to add to that; what
        refers to it may be written meanwhile."""
        self._session.get_one(BuyerRow, account_id, with_for_update={"key_share": True})

    def exists(self, account_id: str) -> bool:
        return self._session.get(BuyerRow, account_id) is not None

    def get(self, account_id: str) -> BuyerRow:
        """The account behind an API key; the foreign key says that it is there."""
        return self._session.get_one(BuyerRow, account_id)
