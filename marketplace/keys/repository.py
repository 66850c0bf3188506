"""Queries of `keys`."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from marketplace.keys.models import KeyRow, NonceRow

__all__ = ["KeyRepository", "NonceRepository"]


class KeyRepository:
    """API keys."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: KeyRow) -> None:
        self._session.add(row)
        self._session.flush()

    def find(self, key_id: str) -> KeyRow | None:
        return self._session.get(KeyRow, key_id)

    def of_account(self, account_id: str) -> Sequence[KeyRow]:
        """Oldest first."""
        query = select(KeyRow).where(KeyRow.account_id == account_id)
        return self._session.exec(query.order_by(col(KeyRow.created_at_s), KeyRow.key_id)).all()

    def revoke(self, account_id: str, key_id: str, now_s: int) -> bool:
        """Whether the account has such a key; one that was revoked before stays so."""
        row = self._session.get(KeyRow, key_id)
        if row is None or row.account_id != account_id:
            return False
        if row.revoked_at_s is None:
            row.revoked_at_s = now_s
            self._session.flush()
        return True

    def note_uses(self, uses: Mapping[str, int]) -> None:
        """Write when each key (by id) was last used."""
        for key_id, used_at_s in uses.items():
            self._session.execute(
                update(KeyRow).where(col(KeyRow.key_id) == key_id).values(last_used_at_s=used_at_s)
            )


class NonceRepository:
    """Nonces of node requests."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def remember(self, row: NonceRow) -> bool:
        """False if it was there: decided by the primary key, so at any concurrency once."""
        postgres = self._session.get_bind().dialect.name == "postgresql"
        insert = postgresql.insert if postgres else sqlite.insert
        statement = insert(NonceRow).values(row.model_dump()).on_conflict_do_nothing()
        # what came back and not the row count, which drivers do not tell for an insert
        taken = self._session.execute(statement.returning(col(NonceRow.nonce)))
        return taken.scalar_one_or_none() is not None

    def forget_expired(self, now_s: int) -> None:
        self._session.execute(delete(NonceRow).where(col(NonceRow.expires_at_s) <= now_s))
