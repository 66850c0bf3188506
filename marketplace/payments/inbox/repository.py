"""Queries of `payments.inbox`."""

from sqlalchemy import func, select, update
from sqlmodel import Session, col

from ledger.database import insert_missing, metadata
from marketplace.payments.inbox.models import WebhookRow

__all__ = ["WebhookRepository"]

_WEBHOOK = metadata.tables[WebhookRow.__tablename__]
ERROR_CHARACTERS_MAX = 512


class WebhookRepository:
    """Events that came, each once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def keep(self, row: WebhookRow) -> None:
        """Keep it, or do nothing where it is kept already."""
        insert_missing(self._session, _WEBHOOK, [row.model_dump(exclude={"row_digest"})])

    def take_due(self, now_s: int, again_at_s: int) -> WebhookRow | None:
        """The event that has waited longest, taken so that no other process has it too."""
        query = (
            select(WebhookRow)
            .where(col(WebhookRow.state) == "new", col(WebhookRow.next_at_s) <= now_s)
            .order_by(col(WebhookRow.next_at_s), col(WebhookRow.event_id))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = self._session.execute(query).scalar_one_or_none()
        if row is not None:
            row.attempts += 1
            row.next_at_s = again_at_s
            self._session.flush()
        return row

    def finish(self, event_id: str, state: str, now_s: int, error: str = "") -> None:
        self._session.execute(
            update(WebhookRow)
            .where(col(WebhookRow.event_id) == event_id, col(WebhookRow.state) == "new")
            .values(state=state, done_at_s=now_s, error=error[:ERROR_CHARACTERS_MAX])
        )

    def note(self, event_id: str, next_at_s: int, error: str) -> None:
        self._session.execute(
            update(WebhookRow)
            .where(col(WebhookRow.event_id) == event_id)
            .values(next_at_s=next_at_s, error=error[:ERROR_CHARACTERS_MAX])
        )

    def revive(self, event_id: str, now_s: int) -> None:
        """A dead event is acted on again."""
        self._session.execute(
            update(WebhookRow)
            .where(col(WebhookRow.event_id) == event_id, col(WebhookRow.state) == "dead")
            .values(state="new", attempts=0, next_at_s=now_s, done_at_s=None)
        )

    def dead(self, limit: int) -> list[WebhookRow]:
        """What was given up, newest first."""
        query = (
            select(WebhookRow)
            .where(col(WebhookRow.state) == "dead")
            .order_by(col(WebhookRow.received_at_s).desc(), col(WebhookRow.event_id))
            .limit(limit)
        )
        return list(self._session.execute(query).scalars())

    def count(self, state: str) -> int:
        query = select(func.count()).select_from(WebhookRow).where(col(WebhookRow.state) == state)
        return int(self._session.execute(query).scalar_one())
