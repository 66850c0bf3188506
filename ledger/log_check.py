"""The log against itself and against the book: every stored byte of it is made again.

I8  entries, hashes, nodes, tiles and the log's head follow from the entries; receipts are theirs.
I9  every checkpoint is what was signed at its size, and so are its cosignatures; as all of them are
    compared with one growing tree, each is consistent with every earlier one.
I10 every balance tree is what its entry says; those whose nodes are kept come to root and sum.
I14 replaying the entries gives the sums of every checkpoint and what each provider was credited.

One pass, a page at a time: memory does not grow with the log, but for what a replay holds.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, func, select

from ledger.accounts import AccountCode
from ledger.balance_check import broken_balances
from ledger.bundle import TOTALS
from ledger.checkpoint import open_checkpoint, split_note
from ledger.cosignature import verify_cosignature, witness_name
from ledger.database import Session, metadata
from ledger.errors import AuditFailed
from ledger.examine import CheckedEquivocation, CheckedReceipt, Entry, Flawed, examine_all
from ledger.invariants import Violation
from ledger.leaf import LeafKind, ReceiptLeaf, decode_leaf, kind_of
from ledger.log_models import CosignatureRow, TileRow
from ledger.models import AccountRow, CheckpointRow, LeafRow, LogHeadRow, NodeRow, ReceiptRow
from ledger.replay import Replay
from ledger.tiles import TILE_HASHES, TILE_HEIGHT, TileName
from ledger.tree import Frontier
from protocol.errors import PieceworkError
from protocol.identity import PeerId

__all__ = ["VIOLATIONS_MAX", "check_log"]

VIOLATIONS_MAX = 100
"""One lost row can make all after it seem wrong; the first tell the story."""
PAGE_ROWS = 1000

_LEAF = metadata.tables[LeafRow.__tablename__]
_NODE = metadata.tables[NodeRow.__tablename__]
_TILE = metadata.tables[TileRow.__tablename__]
_HEAD = metadata.tables[LogHeadRow.__tablename__]
_CHECKPOINT = metadata.tables[CheckpointRow.__tablename__]
_COSIGNATURE = metadata.tables[CosignatureRow.__tablename__]
_RECEIPT = metadata.tables[ReceiptRow.__tablename__]
_ACCOUNT = metadata.tables[AccountRow.__tablename__]


def check_log(
    session: Session, market_key: PeerId, origin: str, *, processes: int = 1
) -> list[Violation]:
    """Everything that is wrong with the log, at most VIOLATIONS_MAX; nothing where it is whole.

    processes: how many verify signatures, which is most of the work.
    """
    check = _LogCheck(session, market_key, origin)
    check.run(processes)
    return check.violations[:VIOLATIONS_MAX]


@dataclass(slots=True)
class _Level:
    """Hashes of one level that are not yet a full tile."""

    tile_index: int = 0
    hashes: list[bytes] = field(default_factory=list)


class _LogCheck:
    def __init__(self, session: Session, market_key: PeerId, origin: str) -> None:
        self.violations: list[Violation] = []
        self._session = session
        self._market_key = market_key
        self._origin = origin
        self._frontier = Frontier()
        self._replay = Replay()
        self._levels: dict[int, _Level] = {}

    def run(self, processes: int) -> None:
        checkpoints = _pages(self._session, _CHECKPOINT, _CHECKPOINT.c.size)
        due = next(checkpoints, None)
        rows = _RowsBeside(_pages(self._session, _LEAF, _LEAF.c.leaf_index))
        receipts = _pages(self._session, _RECEIPT, _RECEIPT.c.leaf_index)
        receipt = next(receipts, None)
        entries = examine_all(rows, self._market_key, processes=processes)
        while due is not None and due.size == 0:
            self._check_checkpoint(due)
            due = next(checkpoints, None)
        for digest, entry in entries:
            leaf = rows.next_row()
            index = self._frontier.size
            self._check_leaf(leaf, index, digest, entry)
            self._grow(digest)
            self._replay.take(index, entry)
            if receipt is not None and receipt.leaf_index == index:
                self._check_receipt(receipt, leaf)
                receipt = next(receipts, None)
            elif isinstance(entry, CheckedReceipt):
                self._say("I8", f"entry {index} is a receipt that is not in the book")
            while due is not None and due.size == self._frontier.size:
                self._check_checkpoint(due)
                due = next(checkpoints, None)
        if receipt is not None:
            self._say("I8", f"the receipt of entry {receipt.leaf_index} has no entry of its own")
        if due is not None:
            self._say("I9", f"checkpoint {due.size} is of more entries than there are")
        self._check_counts()
        self._check_head()
        self._check_credits()
        for problem in broken_balances(self._session):
            self._say("I10", problem)
        for problem in self._replay.problems:
            self._say("I14", problem)

    def _say(self, invariant: str, detail: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(invariant, detail))

    def _check_leaf(self, row: Row[Any], index: int, digest: bytes, entry: Entry) -> None:
        if row.leaf_index != index:
            self._say("I8", f"entry {index} is missing, or row {row.leaf_index} is too many")
        if row.hash != digest:
            self._say("I8", f"entry {index} does not have the hash that is stored")
        match entry:
            case CheckedReceipt():
                kind: LeafKind | None = LeafKind.RECEIPT
            case CheckedEquivocation():
                kind = LeafKind.EQUIVOCATION
            case Flawed():
                kind = None
            case _:
                kind = kind_of(entry)
        if kind is not None and row.kind != kind.value:
            self._say("I8", f"entry {index} is stored as '{row.kind}', and is a {kind.value}")

    def _grow(self, digest: bytes) -> None:
        """One leaf more: what it completes must be stored as it comes out here."""
        self._collect(0, digest)
        for level, index, root in self._frontier.append(digest):
            if level % TILE_HEIGHT == 0:
                self._check_node(level, index, root)
                self._collect(level // TILE_HEIGHT, root)

    def _check_node(self, level: int, index: int, root: bytes) -> None:
        query = select(_NODE.c.hash).where(_NODE.c.level == level, _NODE.c.node_index == index)
        if self._session.execute(query).scalar_one_or_none() != root:
            self._say("I8", f"node {index} of level {level} is not what its leaves come to")

    def _collect(self, level: int, digest: bytes) -> None:
        collected = self._levels.setdefault(level, _Level())
        collected.hashes.append(digest)
        if len(collected.hashes) < TILE_HASHES:
            return
        index = collected.tile_index
        query = select(_TILE.c.hashes).where(_TILE.c.level == level, _TILE.c.tile_index == index)
        if self._session.execute(query).scalar_one_or_none() != b"".join(collected.hashes):
            self._say("I8", f"{TileName(level, index).path} is not what its leaves come to")
        self._levels[level] = _Level(index + 1)

    def _check_receipt(self, receipt: Row[Any], leaf: Row[Any]) -> None:
        try:
            entry = decode_leaf(leaf.payload)
        except AuditFailed:
            return  # said before
        if not isinstance(entry, ReceiptLeaf) or entry.cosigned != receipt.cosigned:
            self._say("I8", f"entry {leaf.leaf_index} differs from the receipt in the book")

    def _check_checkpoint(self, row: Row[Any]) -> None:
        size = row.size
        try:
            signed = open_checkpoint(row.note, self._market_key, origin=self._origin)
        except PieceworkError as error:
            self._say("I9", f"checkpoint {size}: {error}")
            return
        if (signed.size, signed.root) != (size, row.root):
            self._say("I9", f"checkpoint {size} is stored with another size or root than signed")
        if signed.root != self._frontier.root:
            self._say("I9", f"checkpoint {size} was signed with another root than its entries'")
        said = {name: row._mapping[name] for name in row._mapping if name in TOTALS}
        before = len(self._replay.problems)
        self._replay.compare(said)
        if len(self._replay.problems) > before:
            self._say("I14", f"checkpoint {size} says other sums than its entries")
        self._check_cosignatures(size, row.note)

    def _check_cosignatures(self, size: int, note: str) -> None:
        text, _ = split_note(note)
        query = select(_COSIGNATURE).where(_COSIGNATURE.c.size == size)
        for row in self._session.execute(query):
            try:
                witness = PeerId.from_text(row.witness)
                verify_cosignature(text, row.line, witness_name(witness), witness)
            except PieceworkError as error:
                self._say("I9", f"cosignature of {row.witness} under checkpoint {size}: {error}")

    def _check_counts(self) -> None:
        """Rows that nothing above has looked at would be too many."""
        size = self._frontier.size
        for table, level, name in ((_NODE, "level", "nodes"), (_TILE, "level", "tiles")):
            query = select(table.c[level], func.count()).group_by(table.c[level])
            for stored, count in self._session.execute(query):
                shift = stored if table is _NODE else TILE_HEIGHT * (stored + 1)
                if shift % TILE_HEIGHT or count != size >> shift:
                    self._say("I8", f"there are {count} {name} of level {stored}")

    def _check_head(self) -> None:
        head = self._session.execute(select(_HEAD)).one_or_none()
        size, edge = (head.size, head.frontier) if head else (0, b"")
        if (size, edge) != (self._frontier.size, self._frontier.encode()):
            self._say("I8", f"the log's head is not that of its {self._frontier.size} entries")
        if head and head.id != 1:
            self._say("I8", f"the log's head is row {head.id}, and nobody finds it there")
        last = self._session.execute(select(func.max(_CHECKPOINT.c.size))).scalar_one()
        if head and head.checkpoint_size != (last or 0):
            self._say("I9", f"the log's head says that {head.checkpoint_size} entries were signed")

    def _check_credits(self) -> None:
        """What each provider was ever credited is what the entries say."""
        query = select(_ACCOUNT.c.owner, _ACCOUNT.c.credits_posted).where(
            _ACCOUNT.c.code == AccountCode.PROVIDER_EARNED.value
        )
        ours = {str(provider): nanos for provider, nanos in self._replay.credited.items() if nanos}
        for owner, credited in self._session.execute(query):
            if credited != ours.pop(owner, 0):
                self._say("I14", f"{owner} was credited {credited}, and the log says otherwise")
        for owner in ours:
            self._say("I14", f"{owner} was credited nothing, and the log says otherwise")


class _RowsBeside:
    """Gives payloads on, and keeps the rows they came in until their turn to be compared."""

    def __init__(self, rows: Iterator[Row[Any]]) -> None:
        self._rows = rows
        self._ahead: deque[Row[Any]] = deque()

    def __iter__(self) -> Iterator[bytes]:
        for row in self._rows:
            self._ahead.append(row)
            yield row.payload

    def next_row(self) -> Row[Any]:
        return self._ahead.popleft()


def _pages(session: Session, table: Any, column: Any) -> Iterator[Row[Any]]:
    """Every row in a column's order, a page at a time."""
    last = None
    while True:
        query = select(table).order_by(column).limit(PAGE_ROWS)
        if last is not None:
            query = query.where(column > last)
        rows = session.execute(query).all()
        yield from rows
        if len(rows) < PAGE_ROWS:
            return
        last = rows[-1]._mapping[column.key]
