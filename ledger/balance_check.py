"""I10: every balance tree is what the log's entry says of it, and its nodes come to its root.

Nodes are kept for the newest trees alone; of older ones the row is compared with the entry.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, func, select

from ledger.balance_tree import EMPTY, BalanceNode, build_levels, leaf_of, salt_of
from ledger.database import Session, metadata
from ledger.errors import AuditFailed
from ledger.leaf import BalancesLeaf, decode_leaf
from ledger.log_models import BalanceNodeRow, BalanceSnapshotRow
from ledger.models import LeafRow

__all__ = ["broken_balances"]

ROWS_AT_ONCE = 1_000

_LEAF = metadata.tables[LeafRow.__tablename__]
_SNAPSHOT = metadata.tables[BalanceSnapshotRow.__tablename__]
_NODE = metadata.tables[BalanceNodeRow.__tablename__]


def broken_balances(session: Session) -> Iterator[str]:
    """Everything that is wrong with the balance trees, in words."""
    with_nodes = set(session.execute(select(_NODE.c.snapshot_id).distinct()).scalars())
    newest = session.execute(select(func.max(_SNAPSHOT.c.leaf_index))).scalar_one()
    query = (
        select(_SNAPSHOT, _LEAF.c.payload)
        .join(_LEAF, _LEAF.c.leaf_index == _SNAPSHOT.c.leaf_index, isouter=True)
        .order_by(_SNAPSHOT.c.leaf_index)
        .execution_options(yield_per=ROWS_AT_ONCE)
    )
    for row in session.execute(query):
        yield from _wrong_with(row)
        if row.snapshot_id in with_nodes or row.leaf_index == newest:
            yield from _wrong_with_nodes(session, row)
        with_nodes.discard(row.snapshot_id)
    for snapshot_id in sorted(with_nodes):
        yield f"balance tree {snapshot_id} has nodes and is not there itself"


def _wrong_with(row: Row[Any]) -> Iterator[str]:
    name = f"balance tree {row.snapshot_id}"
    if row.sum_nanos != row.liabilities_nanos:
        yield f"{name} owes {row.sum_nanos}, the book {row.liabilities_nanos}"
    expected = BalancesLeaf(row.root, row.sum_nanos, row.account_count, row.taken_at_s)
    try:
        if row.payload is None or decode_leaf(row.payload) != expected:
            yield f"{name} is not what entry {row.leaf_index} says"
    except AuditFailed as error:
        yield f"{name}: {error}"


def _wrong_with_nodes(session: Session, row: Row[Any]) -> Iterator[str]:
    name = f"balance tree {row.snapshot_id}"
    query = (
        select(_NODE)
        .where(_NODE.c.snapshot_id == row.snapshot_id)
        .order_by(_NODE.c.level, _NODE.c.node_index)
    )
    stored: dict[tuple[int, int], BalanceNode] = {}
    for node in session.execute(query):
        found = BalanceNode(node.hash, node.sum_nanos)
        stored[node.level, node.node_index] = found
        if node.level == 0:
            salt = salt_of(row.secret, node.account)
            if leaf_of(salt, node.account, node.sum_nanos) != found:
                yield f"{name}: node {node.node_index} of level 0 is not {node.account}'s balance"
    leaves = [node for (level, _), node in stored.items() if level == 0]
    levels = build_levels(leaves)
    expected = {
        (level, index): node
        for level, nodes in enumerate(levels)
        for index, node in enumerate(nodes)
    }
    for level, index in sorted(set(stored) | set(expected)):
        if stored.get((level, index)) != expected.get((level, index)):
            yield f"{name}: node {index} of level {level} is not what lies below it"
    root = levels[-1][0] if levels else EMPTY
    if (root.hash, root.sum_nanos) != (row.root, row.sum_nanos):
        yield f"{name} does not come to its root"
    if len(leaves) != row.account_count:
        yield f"{name} has another count of accounts"
