"""The public log in the database: append, page through, prove, and sign.

The head row's lock orders appends; an index is given out in the transaction that writes its leaf,
so it is never answered for a leaf that was lost. Hashes are stored as tiles, so a proof reads a few
rows, however long the log.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from sqlalchemy import insert, select, update

from ledger.accounts import AccountCode
from ledger.balances import Balances, changed_rows
from ledger.bulk import insert_rows
from ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.database import Session, insert_missing, metadata
from ledger.errors import AuditFailed, ForkDetected, LedgerError
from ledger.failpoint import reach
from ledger.leaf import Leaf, encode_leaf, kind_of
from ledger.log_hashes import LogHashes
from ledger.models import CheckpointRow, LeafRow, LogHeadRow
from ledger.tiles import (
    ENTRY_BYTES_MAX,
    TILE_HASHES,
    TILE_HEIGHT,
    TileName,
    encode_entries,
    subtree_from_tiles,
    tile_width,
)
from ledger.tree import (
    Frontier,
    SubtreeRoot,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_consistency,
)
from protocol.identity import KeyPair

__all__ = ["LEAVES_PER_PAGE_MAX", "Log", "SignedCheckpoint", "publish_checkpoint"]

LEAVES_PER_PAGE_MAX = 1000

_LEAF = metadata.tables[LeafRow.__tablename__]
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
    parked_nanos: int = 0

    @property
    def totals(self) -> dict[str, int]:
        """As `ledger.audit.audit` takes them."""
        return {
            "charged_nanos": self.charged_nanos,
            "credited_nanos": self.credited_nanos,
            "fee_nanos": self.fee_nanos,
            "parked_nanos": self.parked_nanos,
        }


class Log:
    """The log, seen from one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._hashes = LogHashes(session)

    @property
    def size(self) -> int:
        size = self._session.execute(select(_HEAD.c.size)).scalar_one_or_none()
        return size or 0

    def append(self, leaves: Sequence[Leaf]) -> range:
        """Add leaves in this order; gives their indexes."""
        if not leaves:
            return range(0)
        # all that needs no order comes before the lock: nobody else appends while it is held
        entries = [(kind_of(leaf).value, encode_leaf(leaf)) for leaf in leaves]
        if max(len(payload) for _, payload in entries) > ENTRY_BYTES_MAX:
            raise LedgerError(f"An entry has at most {ENTRY_BYTES_MAX} bytes.")
        hashes = [leaf_hash(payload) for _, payload in entries]
        frontier = self.lock_head()
        start = frontier.size
        nodes: dict[int, list[bytes]] = defaultdict(list)
        for digest in hashes:
            for level, _, root in frontier.append(digest):
                if level % TILE_HEIGHT == 0:
                    nodes[level // TILE_HEIGHT].append(root)
        rows = [
            {"leaf_index": index, "kind": kind, "payload": payload, "hash": digest}
            for index, (kind, payload), digest in zip(count(start), entries, hashes, strict=False)
        ]
        insert_rows(self._session, _LEAF, rows)
        self._hashes.add(start, hashes, nodes)
        grown = update(_HEAD).where(_HEAD.c.id == 1, _HEAD.c.size == start)
        values = {"size": frontier.size, "frontier": frontier.encode()}
        if changed_rows(self._session, grown.values(values)) != 1:
            raise LedgerError("Somebody else appended to the log.", hint="Try again.")
        reach("log.appended")
        return range(start, frontier.size)

    def root(self, size: int) -> bytes:
        """Root over the first `size` leaves; raises AuditFailed beyond the end."""
        self._check_size(size)
        return tree_root(size, self._subtrees(size))

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """That leaf `index` is in the tree of `size`."""
        self._check_size(size)
        return inclusion_proof(index, size, self._subtrees(size))

    def consistency_proof(self, old_size: int, size: int) -> list[bytes]:
        """That the tree of `size` begins with the tree of `old_size`."""
        self._check_size(size)
        return consistency_proof(old_size, size, self._subtrees(size))

    def tile(self, name: TileName) -> bytes:
        """A tile's hashes, or its entries; raises AuditFailed for what the log does not have."""
        if name.width > tile_width(name.level or 0, name.index, self.size):
            raise AuditFailed(f"The log has {self.size} entries, and no {name.path}.")
        if name.level is not None:
            return self._hashes.tile(name.level, name.index, name.width)
        return encode_entries(self.page(name.index * TILE_HASHES, name.width))

    def page(self, start: int, count: int) -> list[bytes]:
        """Payloads of up to `count` leaves from `start`, at most LEAVES_PER_PAGE_MAX."""
        end = start + min(count, LEAVES_PER_PAGE_MAX)
        query = select(_LEAF.c.payload).where(_LEAF.c.leaf_index.between(start, end - 1))
        return list(self._session.execute(query.order_by(_LEAF.c.leaf_index)).scalars())

    def latest(self) -> SignedCheckpoint | None:
        """The newest published checkpoint."""
        return self.checkpoint_at()

    def checkpoint_at(self, size_max: int | None = None) -> SignedCheckpoint | None:
        """The newest published checkpoint of at most `size_max` entries."""
        columns = [_CHECKPOINT.c[each.name] for each in dataclasses.fields(SignedCheckpoint)]
        query = select(*columns).order_by(_CHECKPOINT.c.size.desc()).limit(1)
        if size_max is not None:
            query = query.where(_CHECKPOINT.c.size <= size_max)
        row = self._session.execute(query).one_or_none()
        return SignedCheckpoint(**row._mapping) if row else None

    def lock_head(self) -> Frontier:
        """The right edge; nobody else appends or signs before this transaction ends."""
        query = select(_HEAD.c.size, _HEAD.c.frontier).with_for_update()
        head = self._session.execute(query).one_or_none()
        if head is None:
            first = {"id": 1, "size": 0, "frontier": b"", "checkpoint_size": 0}
            insert_missing(self._session, _HEAD, [first])
            head = self._session.execute(query).one()
        size, encoded = head
        return Frontier(size, encoded)

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise AuditFailed(f"The log has {self.size} entries, not {size}.")

    def _subtrees(self, size: int) -> SubtreeRoot:
        return subtree_from_tiles(size, self._hashes.tile)


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
    reach("log.signed")
    return published


def _totals(session: Session) -> dict[str, int]:
    # only settlements credit these accounts, in the transaction that appends their leaf
    totals = Balances(session).totals()
    return {
        "charged_nanos": totals[AccountCode.CLEARING_SETTLE].credits_posted,
        "credited_nanos": totals[AccountCode.PROVIDER_EARNED].credits_posted,
        "fee_nanos": totals[AccountCode.FEE].credits_posted,
        "parked_nanos": totals[AccountCode.DISPUTED].posted_nanos,
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
