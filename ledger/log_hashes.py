"""The log's hashes in the database: leaves, roots for every eighth level, and full tiles of both.

A hash is stored where it first comes to be (leaf, node) and once more in the tile it fills, so that
a tile is one row to serve. `ledger/log_check.py` compares the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select

from ledger.database import Session, metadata
from ledger.errors import ForkDetected
from ledger.log_models import TileRow
from ledger.models import LeafRow, NodeRow
from ledger.tiles import TILE_HASHES, TILE_HEIGHT
from ledger.tree import HASH_BYTES

__all__ = ["LogHashes"]

_LEAF = metadata.tables[LeafRow.__tablename__]
_NODE = metadata.tables[NodeRow.__tablename__]
_TILE = metadata.tables[TileRow.__tablename__]


class LogHashes:
    """Hashes by tile level: 0 has the leaves, each further level roots of 256 of those below."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, start: int, leaves: Sequence[bytes], nodes: Mapping[int, list[bytes]]) -> None:
        """Store what an append brought: roots by tile level, and every tile that is full now.

        The leaves' own rows are the caller's. Nothing of a level may have been left out.
        """
        rows: list[dict[str, Any]] = []
        tiles = self._filled(0, start, leaves)
        for level, hashes in nodes.items():
            first = start >> (TILE_HEIGHT * level)
            rows += [
                {"level": TILE_HEIGHT * level, "node_index": first + position, "hash": root}
                for position, root in enumerate(hashes)
            ]
            tiles += self._filled(level, first, hashes)
        if rows:
            self._session.execute(insert(_NODE), rows)
        if tiles:
            self._session.execute(insert(_TILE), tiles)

    def tile(self, level: int, index: int, width: int) -> bytes:
        """The first `width` hashes of a tile; raises ForkDetected if any is lost."""
        query = select(_TILE.c.hashes).where(_TILE.c.level == level, _TILE.c.tile_index == index)
        full = self._session.execute(query).scalar_one_or_none()
        if full is not None:
            return bytes(full[: width * HASH_BYTES])
        return b"".join(self._rows(level, index * TILE_HASHES, width))

    def _filled(self, level: int, start: int, hashes: Sequence[bytes]) -> list[dict[str, Any]]:
        """The tiles that `hashes`, which begin at `start` of their level, make full."""
        tiles = []
        for index in range(start // TILE_HASHES, (start + len(hashes)) // TILE_HASHES):
            first = index * TILE_HASHES
            older = self._rows(level, first, max(0, start - first))
            newer = hashes[max(0, first - start) : first + TILE_HASHES - start]
            joined = b"".join((*older, *newer))
            tiles.append({"level": level, "tile_index": index, "hashes": joined})
        return tiles

    def _rows(self, level: int, start: int, count: int) -> list[bytes]:
        if not count:
            return []
        table, column = (_LEAF, _LEAF.c.leaf_index) if level == 0 else (_NODE, _NODE.c.node_index)
        query = select(table.c.hash).where(column.between(start, start + count - 1))
        if level:
            query = query.where(_NODE.c.level == TILE_HEIGHT * level)
        hashes = [bytes(item) for item in self._session.execute(query.order_by(column)).scalars()]
        if len(hashes) != count:
            raise ForkDetected(
                f"The log lacks {count - len(hashes)} hashes at level {TILE_HEIGHT * level}.",
                hint="Stop, and restore the database from a backup.",
            )
        return hashes
