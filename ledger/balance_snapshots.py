"""Balance trees in the database: taken in one transaction, put into the public log, and kept.

All liabilities are read by one statement, so that no movement is seen on one side alone; the
database's own sum comes with it and must be the tree's.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, literal, null, select, tuple_, union_all

from ledger.accounts import AccountCode
from ledger.balance_tree import (
    EMPTY,
    BalanceNode,
    BalanceProof,
    build_levels,
    make_leaves,
    salt_of,
    siblings_of,
)
from ledger.database import Session, metadata
from ledger.errors import LedgerError, Unbalanced
from ledger.leaf import BalancesLeaf
from ledger.log import Log
from ledger.log_models import BalanceNodeRow, BalanceSnapshotRow
from ledger.models import AccountRow
from protocol.money import Nanos

__all__ = ["SNAPSHOTS_KEPT", "Snapshot", "balance_proof", "newest_snapshot", "take_snapshot"]

SNAPSHOTS_KEPT = 3
"""Whose trees can still be asked for: somebody may be reading the one before the newest."""
ACCOUNTS_MAX = 4_000_000
"""About two gigabytes while the tree is made; a larger book wants its tree made elsewhere."""
ROWS_PER_INSERT = 10_000

_ACCOUNT = metadata.tables[AccountRow.__tablename__]
_SNAPSHOT = metadata.tables[BalanceSnapshotRow.__tablename__]
_NODE = metadata.tables[BalanceNodeRow.__tablename__]
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was owed at one moment, and the entry of the log that says so."""

    snapshot_id: int
    root: bytes
    sum_nanos: Nanos
    account_count: int
    taken_at_s: int
    leaf_index: int


def take_snapshot(session: Session, *, now_s: int, every_s: int) -> Snapshot | None:
    """A tree of this moment, or None where the turn that is under way has one already.

    Two processes that take the same turn meet at its key: the second fails and wrote nothing.
    """
    snapshot_id = now_s - now_s % every_s
    query = select(func.count()).where(_SNAPSHOT.c.snapshot_id == snapshot_id)
    if session.execute(query).scalar_one():
        return None
    balances, liabilities = _read_balances(session)
    secret = secrets.token_bytes(_SECRET_BYTES)
    leaves = make_leaves(secret, balances)
    levels = build_levels([leaf.node for leaf in leaves])
    root = levels[-1][0] if levels else EMPTY
    if root.sum_nanos != liabilities:
        raise Unbalanced(f"The tree owes {root.sum_nanos}, the book {liabilities} nanos.")
    _insert_nodes(session, snapshot_id, levels, [leaf.account for leaf in leaves])
    entry = BalancesLeaf(root.hash, root.sum_nanos, len(leaves), now_s)
    (leaf_index,) = Log(session).append([entry])
    row = {
        "snapshot_id": snapshot_id,
        "root": root.hash,
        "sum_nanos": root.sum_nanos,
        "liabilities_nanos": liabilities,
        "account_count": len(leaves),
        "taken_at_s": now_s,
        "secret": secret,
        "leaf_index": leaf_index,
    }
    session.execute(insert(_SNAPSHOT), row)
    _forget_older(session)
    return newest_snapshot(session)


def newest_snapshot(session: Session) -> Snapshot | None:
    """The last that was taken."""
    columns = [_SNAPSHOT.c[name] for name in Snapshot.__dataclass_fields__]
    query = select(*columns).order_by(_SNAPSHOT.c.leaf_index.desc()).limit(1)
    row = session.execute(query).one_or_none()
    return Snapshot(*row) if row else None


def balance_proof(session: Session, snapshot: Snapshot, account: str) -> BalanceProof | None:
    """An account's place in a snapshot; None where it did not exist then."""
    query = select(_NODE.c.node_index, _NODE.c.sum_nanos).where(
        _NODE.c.snapshot_id == snapshot.snapshot_id, _NODE.c.account == account
    )
    found = session.execute(query).one_or_none()
    if found is None:
        return None
    index, sum_nanos = found
    query = select(_SNAPSHOT.c.secret).where(_SNAPSHOT.c.snapshot_id == snapshot.snapshot_id)
    secret = session.execute(query).scalar_one()
    return BalanceProof(
        account=account,
        sum_nanos=sum_nanos,
        salt=salt_of(secret, account),
        index=index,
        count=snapshot.account_count,
        siblings=tuple(
            _siblings(session, snapshot.snapshot_id, siblings_of(index, snapshot.account_count))
        ),
    )


def _read_balances(session: Session) -> tuple[list[tuple[str, Nanos]], Nanos]:
    """Every liability account's balance, and the database's sum of them, as of one moment."""
    owed = _ACCOUNT.c.credits_posted - _ACCOUNT.c.debits_posted
    codes = [code.value for code in AccountCode if code.is_liability]
    liability = _ACCOUNT.c.code.in_(codes)
    query = union_all(
        select(_ACCOUNT.c.name.label("name"), owed.label("owed")).where(liability),
        select(null(), func.coalesce(func.sum(owed), literal(0))).where(liability),
    )
    balances: list[tuple[str, Nanos]] = []
    liabilities = 0
    for name, amount in session.execute(query):
        if name is None:
            liabilities = int(amount)
        else:
            balances.append((name, int(amount)))
        if len(balances) > ACCOUNTS_MAX:
            raise LedgerError(f"A balance tree has at most {ACCOUNTS_MAX} accounts.")
    return balances, liabilities


def _insert_nodes(
    session: Session,
    snapshot_id: int,
    levels: Sequence[Sequence[BalanceNode]],
    accounts: Sequence[str],
) -> None:
    for level, nodes in enumerate(levels):
        for start in range(0, len(nodes), ROWS_PER_INSERT):
            rows = [
                {
                    "snapshot_id": snapshot_id,
                    "level": level,
                    "node_index": index,
                    "hash": node.hash,
                    "sum_nanos": node.sum_nanos,
                    "account": accounts[index] if level == 0 else None,
                }
                for index, node in enumerate(nodes[start : start + ROWS_PER_INSERT], start)
            ]
            session.execute(insert(_NODE), rows)


def _siblings(
    session: Session, snapshot_id: int, places: Sequence[tuple[int, int]]
) -> list[BalanceNode]:
    query = (
        select(_NODE.c.hash, _NODE.c.sum_nanos)
        .where(
            _NODE.c.snapshot_id == snapshot_id,
            tuple_(_NODE.c.level, _NODE.c.node_index).in_(places),
        )
        .order_by(_NODE.c.level)
    )
    nodes = [BalanceNode(bytes(row[0]), row[1]) for row in session.execute(query)]
    if len(nodes) != len(places):
        raise LedgerError("A balance tree has lost some of its nodes.", hint="Take a new one.")
    return nodes


def _forget_older(session: Session) -> None:
    query = select(_SNAPSHOT.c.snapshot_id).order_by(_SNAPSHOT.c.leaf_index.desc())
    kept = session.execute(query.limit(SNAPSHOTS_KEPT)).scalars().all()
    session.execute(delete(_NODE).where(_NODE.c.snapshot_id.not_in(kept)))
