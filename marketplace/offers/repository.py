"""Queries of `offers`."""

from collections.abc import Iterator, Sequence

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from marketplace.offers.models import OfferRow, PlacementRow

__all__ = ["OfferRepository", "PlacementRepository"]

ROWS_AT_ONCE = 1_000
"""Few enough to be in memory, however many there are."""


class OfferRepository:
    """Newest offers, one a provider."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, provider: str) -> OfferRow | None:
        return self._session.get(OfferRow, provider)

    def put(self, row: OfferRow) -> bool:
        """Take `row` if no newer one is there; whether it was taken."""
        if self._session.get(OfferRow, row.provider) is None:
            self._session.add(row)
            self._session.flush()
            return True
        return (
            self._session.connection()
            .execute(
                update(OfferRow)
                .where(col(OfferRow.provider) == row.provider)
                .where(col(OfferRow.sequence) < row.sequence)
                .values(
                    sequence=row.sequence,
                    envelope=row.envelope,
                    expires_at_s=row.expires_at_s,
                    changed_at_s=row.changed_at_s,
                )
            )
            .rowcount
            == 1
        )

    def withdraw(self, provider: str, now_s: int) -> bool:
        """Whether an offer of the provider's was there to end."""
        row = self._session.get(OfferRow, provider)
        if row is None or row.expires_at_s == 0:
            return False
        row.expires_at_s, row.changed_at_s = 0, now_s
        self._session.flush()
        return True

    def changed_since(self, since_s: int) -> Sequence[OfferRow]:
        """Rows put or withdrawn at or after `since_s`, withdrawn ones too."""
        return self._session.exec(
            select(OfferRow).where(col(OfferRow.changed_at_s) >= since_s)
        ).all()

    def alive(self, now_s: int) -> Sequence[OfferRow]:
        return self._session.exec(select(OfferRow).where(col(OfferRow.expires_at_s) > now_s)).all()

    def every(self) -> Iterator[OfferRow]:
        """All rows, a page at a time."""
        query = select(OfferRow).execution_options(yield_per=ROWS_AT_ONCE)
        yield from self._session.exec(query)


class PlacementRepository:
    """Spans given to nodes that are still loading them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pending(self, manifest_hash: bytes, now_s: int) -> Sequence[PlacementRow]:
        return self._session.exec(
            select(PlacementRow)
            .where(PlacementRow.manifest_hash == manifest_hash)
            .where(col(PlacementRow.expires_at_s) > now_s)
        ).all()

    def put(self, row: PlacementRow) -> None:
        """One a peer: a new one replaces the last."""
        self._session.merge(row)
        self._session.flush()

    def forget_expired(self, now_s: int) -> None:
        self._session.execute(delete(PlacementRow).where(col(PlacementRow.expires_at_s) <= now_s))
