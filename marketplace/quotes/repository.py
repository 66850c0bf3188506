"""Queries of `quotes`."""

from collections.abc import Sequence

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from marketplace.leases.models import SessionRow
from marketplace.quotes.models import QuoteRow

__all__ = ["QuoteRepository"]


class QuoteRepository:
    """Quotes."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: QuoteRow) -> None:
        self._session.add(row)
        self._session.flush()

    def get(self, quote_id: bytes) -> QuoteRow | None:
        return self._session.get(QuoteRow, quote_id)

    def accept(self, quote_id: bytes, session_id: bytes) -> bool:
        """Claim the quote for one session; False if another has it. Decided by the database."""
        return (
            self._session.connection()
            .execute(
                update(QuoteRow)
                .where(col(QuoteRow.quote_id) == quote_id)
                .where(col(QuoteRow.session_id).is_(None))
                .values(session_id=session_id, row_digest=QuoteRow.row_digest)
            )
            .rowcount
            == 1
        )

    def of_other_sessions(self, limit: int) -> Sequence[bytes]:
        """Ids of quotes that name a session which has another, or are named by one that they do
        not know."""
        query = (
            select(QuoteRow.quote_id)
            .join(SessionRow, col(SessionRow.quote_id) == col(QuoteRow.quote_id), isouter=True)
            .where(col(QuoteRow.session_id).is_distinct_from(col(SessionRow.session_id)))
        )
        return self._session.exec(query.order_by(col(QuoteRow.quote_id)).limit(limit)).all()

    def forget_expired(self, before_s: int) -> None:
        """Remove quotes that ended before `before_s`."""
        self._session.execute(delete(QuoteRow).where(col(QuoteRow.expires_at_s) <= before_s))
