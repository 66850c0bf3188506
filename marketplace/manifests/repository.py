"""Queries of `manifests`."""

from collections.abc import Collection, Mapping, Sequence

from sqlmodel import Session, col, select

from marketplace.manifests.models import ManifestRow

__all__ = ["ManifestRepository"]


class ManifestRepository:
    """Registered manifests."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: ManifestRow) -> None:
        self._session.add(row)
        self._session.flush()

    def by_hash(self, manifest_hash: bytes) -> ManifestRow | None:
        return self._session.get(ManifestRow, manifest_hash)

    def by_name(self, name: str) -> ManifestRow | None:
        return self._session.exec(select(ManifestRow).where(ManifestRow.name == name)).first()

    def lock(self, manifest_hash: bytes) -> None:
        """Let one transaction at a time place nodes on this model."""
        query = select(ManifestRow).where(ManifestRow.manifest_hash == manifest_hash)
        self._session.exec(query.with_for_update()).one()

    def names(self, hashes: Collection[bytes]) -> Mapping[bytes, str]:
        """The catalogue's names of these manifests."""
        query = select(ManifestRow.manifest_hash, ManifestRow.name)
        rows = self._session.exec(query.where(col(ManifestRow.manifest_hash).in_(hashes)))
        return dict(rows.all())

    def page(self, limit: int) -> Sequence[ManifestRow]:
        """By name."""
        return self._session.exec(
            select(ManifestRow).order_by(col(ManifestRow.name)).limit(limit)
        ).all()
