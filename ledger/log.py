"""The public log in the database: append, page through, prove, and sign.

The head row's lock orders appends; an index is given out in the transaction that writes its leaf,
so it is never answered for a leaf that was lost. Roots of full subtrees are stored for every eighth
level, so a proof reads a few pages of at most 256 hashes, however long the log.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select, update

from ledger.accounts import AccountCode
from ledger.balances import Balances, changed_rows
from ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.database import Session, insert_missing, metadata
from ledger.errors import AuditFailed, ForkDetected, LedgerError
from ledger.leaf import Leaf, encode_leaf, kind_of
from ledger.models import CheckpointRow, LeafRow, LogHeadRow, NodeRow
from ledger.tree import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    tree_root,
    verify_consistency,
)
from protocol.identity import KeyPair

__all__ = ["LEAVES_PER_PAGE_MAX", "Log", "SignedCheckpoint", "publish_checkpoint"]

LEAVES_PER_PAGE_MAX = 1000
_TILE_LEVELS = 8

_LEAF = metadata.tables[LeafRow.__tablename__]
_NODE = metadata.tables[NodeRow.__tablename__]
_HEAD = metadata.tables[LogHeadRow.__tablename__]
_CHECKPOINT = metadata.tables[CheckpointRow.__tablename__]


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A published checkpoint, and the book's sums over all settlements up to its size."""

    size: int
    root: bytes
    note: str
    created_at_s: int
    charged_nanos: int
    credited_nanos: int
    fee_nanos: int

    @property
    def totals(self) -> dict[str, int]:
        """As `ledger.audit.audit` takes them."""
        return {
            "charged_nanos": self.charged_nanos,
            "credited_nanos": self.credited_nanos,
            "fee_nanos": self.fee_nanos,
        }


class Log:
    """The log, seen from one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def size(self) -> int:
        size = self._session.execute(select(_HEAD.c.size)).scalar_one_or_none()
        return size or 0

    def append(self, leaves: Sequence[Leaf]) -> range:
        """Add leaves in this order; gives their indexes."""
        if not leaves:
            return range(0)
        frontier = self.lock_head()
        start, rows, nodes = frontier.size, [], []
        for leaf in leaves:
            payload = encode_leaf(leaf)
            digest = leaf_hash(payload)
            rows.append(
                {
                    "leaf_index": frontier.size,
                    "kind": kind_of(leaf).value,
                    "payload": payload,
                    "hash": digest,
                }
            )
            for level, index, root in frontier.append(digest):
                if level % _TILE_LEVELS == 0:
                    nodes.append({"level": level, "node_index": index, "hash": root})
        self._session.execute(insert(_LEAF), rows)
        if nodes:
            self._session.execute(insert(_NODE), nodes)
        grown = update(_HEAD).where(_HEAD.c.id == 1, _HEAD.c.size == start)
        values = {"size": frontier.size, "frontier": frontier.encode()}
        if changed_rows(self._session, grown.values(values)) != 1:
            raise LedgerError("Somebody else appended to the log.", hint="Try again.")
        return range(start, frontier.size)

    def root(self, size: int) -> bytes:
        """Root over the first `size` leaves; raises AuditFailed beyond the end."""
        self._check_size(size)
        return tree_root(size, self._subtree)

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """That leaf `index` is in the tree of `size`."""
        self._check_size(size)
        return inclusion_proof(index, size, self._subtree)

    def consistency_proof(self, old_size: int, size: int) -> list[bytes]:
        """That the tree of `size` begins with the tree of `old_size`."""
        self._check_size(size)
        return consistency_proof(old_size, size, self._subtree)

    def page(self, start: int, count: int) -> list[bytes]:
        """Payloads of up to `count` leaves from `start`, at most LEAVES_PER_PAGE_MAX."""
        end = start + min(count, LEAVES_PER_PAGE_MAX)
        query = select(_LEAF.c.payload).where(_LEAF.c.leaf_index.between(start, end - 1))
        return list(self._session.execute(query.order_by(_LEAF.c.leaf_index)).scalars())

    def latest(self) -> SignedCheckpoint | None:
        """The newest published checkpoint."""
        query = select(_CHECKPOINT).order_by(_CHECKPOINT.c.size.desc()).limit(1)
        row = self._session.execute(query).one_or_none()
        return SignedCheckpoint(**row._mapping) if row else None

    def lock_head(self) -> Frontier:
        """The right edge; nobody else appends or signs before this transaction ends."""
        insert_missing(
            self._session,
            _HEAD,
            [{"id": 1, "size": 0, "frontier": b"", "checkpoint_size": 0}],
        )
        query = select(_HEAD.c.size, _HEAD.c.frontier).with_for_update()
        size, encoded = self._session.execute(query).one()
        return Frontier(size, encoded)

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise AuditFailed(f"The log has {self.size} entries, not {size}.")

    def _subtree(self, level: int, index: int) -> bytes:
        """Root of a full subtree, from the nearest stored level at or below `level`."""
        stored = level - level % _TILE_LEVELS
        hashes = self._stored(stored, index << (level - stored), 1 << (level - stored))
        while len(hashes) > 1:
            hashes = [node_hash(*hashes[pair : pair + 2]) for pair in range(0, len(hashes), 2)]
        return hashes[0]

    def _stored(self, level: int, start: int, count: int) -> list[bytes]:
        if level == 0:
            query = (
                select(_LEAF.c.hash)
                .where(_LEAF.c.leaf_index.between(start, start + count - 1))
                .order_by(_LEAF.c.leaf_index)
            )
        else:
            between = _NODE.c.node_index.between(start, start + count - 1)
            query = (
                select(_NODE.c.hash)
                .where(_NODE.c.level == level, between)
                .order_by(_NODE.c.node_index)
            )
        hashes = list(self._session.execute(query).scalars())
        if len(hashes) != count:
            raise ForkDetected(
                f"The log lacks {count - len(hashes)} hashes at level {level}.",
                hint="Stop, and restore the database from a backup.",
            )
        return hashes


def publish_checkpoint(session: Session, key: KeyPair, origin: str, now_s: int) -> SignedCheckpoint:
    """Sign the log as it is now; the same size gives the same checkpoint.

    Commit before showing it to anyone: what is signed must be durable. Raises ForkDetected if the
    log no longer begins with what was signed last; then the process must stop.
    """
    log = Log(session)
    frontier, latest = log.lock_head(), log.latest()
    if latest is not None:
        _check_grown(log, latest, key, frontier)
        if latest.size == frontier.size:
            return latest
    checkpoint = Checkpoint(origin, frontier.size, frontier.root)
    published = SignedCheckpoint(
        size=checkpoint.size,
        root=checkpoint.root,
        note=sign_checkpoint(checkpoint, key),
        created_at_s=now_s,
        **_totals(session),
    )
    moved = update(_HEAD).where(
        _HEAD.c.id == 1, _HEAD.c.checkpoint_size == (latest.size if latest else 0)
    )
    if changed_rows(session, moved.values(checkpoint_size=checkpoint.size)) != 1:
        raise LedgerError("Somebody else signed a checkpoint.", hint="Try again.")
    session.execute(insert(_CHECKPOINT), dataclasses.asdict(published))
    return published


def _totals(session: Session) -> dict[str, int]:
    # only settlements credit these accounts, in the transaction that appends their leaf
    totals = Balances(session).totals()
    return {
        "charged_nanos": totals[AccountCode.CLEARING_SETTLE].credits_posted,
        "credited_nanos": totals[AccountCode.PROVIDER_EARNED].credits_posted,
        "fee_nanos": totals[AccountCode.FEE].credits_posted,
    }


def _check_grown(log: Log, latest: SignedCheckpoint, key: KeyPair, frontier: Frontier) -> None:
    """That the log still begins with what its newest checkpoint signed."""
    try:
        signed = open_checkpoint(latest.note, key.peer_id)
        if (signed.size, signed.root) != (latest.size, latest.root):
            raise AuditFailed("The stored checkpoint differs from its note.")
        proof = log.consistency_proof(latest.size, frontier.size)
        verify_consistency(latest.size, latest.root, frontier.size, frontier.root, proof)
    except AuditFailed as error:
        raise ForkDetected(
            f"The log does not continue its checkpoint of {latest.size} entries: {error}",
            hint="Stop, and restore the database from a backup.",
        ) from error
