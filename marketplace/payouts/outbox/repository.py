"""Queries of the outbox."""

from sqlalchemy import update
from sqlmodel import Session, col, select

from ledger.database import insert_missing, metadata
from marketplace.payouts.models import OutboxRow

__all__ = ["OutboxRepository"]


class OutboxRepository:
    """Rows of the outbox."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, topic: str, key: str, payload: str, now_s: int) -> None:
        """Write it, or wake the row of this key: `attempts` starts again, so no claim fits it."""
        row = {
            "topic": topic,
            "key": key,
            "payload": payload,
            "created_at_s": now_s,
            "not_before_s": now_s,
            "attempts": 0,
            "last_error": "",
        }
        insert_missing(self._session, metadata.tables[OutboxRow.__tablename__], [row])
        self._session.execute(
            update(OutboxRow)
            .where(col(OutboxRow.key) == key)
            .values(payload=payload, not_before_s=now_s, attempts=0, done_at_s=None, dead_at_s=None)
        )

    def claim(self, topic: str, now_s: int, until_s: int) -> OutboxRow | None:
        """The one that is due longest; other workers pass over it until then."""
        query = (
            select(OutboxRow)
            .where(
                OutboxRow.topic == topic,
                col(OutboxRow.not_before_s) <= now_s,
                col(OutboxRow.done_at_s).is_(None),
                col(OutboxRow.dead_at_s).is_(None),
            )
            .order_by(col(OutboxRow.not_before_s), col(OutboxRow.id))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = self._session.exec(query).one_or_none()
        if row is not None:
            row.not_before_s = until_s
            row.attempts += 1
            self._session.flush()
        return row

    def finish(self, row_id: int, attempts: int, now_s: int) -> None:
        self._session.execute(
            update(OutboxRow)
            .where(col(OutboxRow.id) == row_id, col(OutboxRow.attempts) == attempts)
            .values(done_at_s=now_s)
        )

    def fail(
        self, row_id: int, attempts: int, error: str, not_before_s: int, dead_at_s: int | None
    ) -> None:
        self._session.execute(
            update(OutboxRow)
            .where(col(OutboxRow.id) == row_id, col(OutboxRow.attempts) == attempts)
            .values(last_error=error, not_before_s=not_before_s, dead_at_s=dead_at_s)
        )
