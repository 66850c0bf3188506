"""Data of version 0004: keys and digests of rows, and accounts split by hold; there and back.

The old rows lie in `moved_transfer` and `moved_receipt`; few are in memory at a time.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Connection, text

from ledger.row_digest import (
    SHARDS,
    receipt_digest,
    shard_of,
    transfer_digest,
    transfer_id,
    window_of,
)
from protocol.envelope import Envelope
from protocol.lease import Lease
from protocol.record import decode_canonical, decode_fields

__all__ = ["bring_receipts", "bring_transfers", "join_accounts", "number_transfers"]

SPLIT = ("clearing_settle", "fee")
"""What every settlement touches: one account each before, 64 after."""
ROWS_AT_ONCE = 1_000

_HOLD_CODES = ("hold", "post_hold", "release_hold", "settle")
_SUMS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
_TRANSFERS = """
SELECT m.*, p.code AS pending_code, p.ref AS pending_ref,
    EXISTS (SELECT 1 FROM moved_transfer r WHERE r.pending_id = m.id) AS is_resolved
FROM moved_transfer m LEFT JOIN moved_transfer p ON p.id = m.pending_id
WHERE m.id > :after ORDER BY m.id LIMIT :count
"""
_RECEIPTS = """
SELECT m.*, l.lease FROM moved_receipt m JOIN ledger_lane l ON l.lease_id = m.lease_id
WHERE m.leaf_index > :after ORDER BY m.leaf_index LIMIT :count
"""


def bring_transfers() -> None:
    """Write every old transfer under its new name, on its hold's accounts, and add these up."""
    connection = op.get_bind()
    tables = sa.MetaData()
    account = sa.Table("ledger_account", tables, autoload_with=connection)
    transfer = sa.Table("ledger_transfer", tables, autoload_with=connection)
    connection.execute(sa.insert(account), [_empty(code, s) for code in SPLIT for s in _shards()])
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_SUMS, 0))
    for rows in _batches(connection, _TRANSFERS, "id"):
        new = [_renamed(row) for row in rows]
        for row, is_resolved in zip(new, (row["is_resolved"] for row in rows), strict=True):
            _fold(sums, row, is_resolved=bool(is_resolved))
        connection.execute(sa.insert(transfer), new)
    for code in SPLIT:
        for shard in _shards():
            name = f"{code}:{shard}"
            here = account.c.name == name
            if name in sums:
                connection.execute(sa.update(account).where(here).values(sums[name]))
            else:
                connection.execute(sa.delete(account).where(here))
        connection.execute(sa.delete(account).where(account.c.name == f"{code}:"))


def bring_receipts() -> None:
    """Write every old receipt with the window of its lease."""
    connection = op.get_bind()
    receipt = sa.Table("ledger_receipt", sa.MetaData(), autoload_with=connection)
    for rows in _batches(connection, _RECEIPTS, "leaf_index", first=-1):
        new = []
        for row in rows:
            lease = decode_fields(
                Lease, decode_canonical(Envelope.decode(bytes(row.pop("lease"))).payload)
            )
            row["window_index"] = window_of(lease.issued_at_s)
            new.append(row | {"digest": receipt_digest(row)})
        connection.execute(sa.insert(receipt), new)


def number_transfers() -> None:
    """Downwards: number the transfers by their time, what resolves another behind it."""
    op.execute(
        "CREATE TEMPORARY TABLE numbered AS SELECT id, row_number() OVER"
        " (ORDER BY created_at_s, pending_id IS NOT NULL, id) AS number FROM moved_transfer"
    )
    op.execute(
        "INSERT INTO ledger_transfer (id, debit, credit, amount_nanos, state, pending_id, code,"
        " ref, created_at_s, expires_at_s)"
        f" SELECT n.number, {_joined('m.debit')}, {_joined('m.credit')}, m.amount_nanos, m.state,"
        " p.number, m.code, m.ref, m.created_at_s, m.expires_at_s"
        " FROM moved_transfer m JOIN numbered n ON n.id = m.id"
        " LEFT JOIN numbered p ON p.id = m.pending_id ORDER BY n.number"
    )
    op.execute("DROP TABLE numbered")


def join_accounts() -> None:
    """Downwards: what was split by hold is one account again; the transfers follow later."""
    for code in SPLIT:
        of_code = f"FROM ledger_account WHERE code = '{code}'"
        sums = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in _SUMS)
        op.execute(
            f"INSERT INTO ledger_account (name, code, owner, no_overdraft, {', '.join(_SUMS)})"
            f" SELECT '{code}:', '{code}', '', no_overdraft, {sums} {of_code} AND owner <> ''"
            " GROUP BY no_overdraft"
        )
        op.execute(f"DELETE {of_code} AND owner <> ''")


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    new = {name: row[name] for name in row if not name.startswith(("pending_", "is_"))}
    new["id"] = transfer_id(row["code"], row["ref"])
    is_resolution = row["pending_id"] is not None
    new["pending_id"] = (
        transfer_id(row["pending_code"], row["pending_ref"]) if is_resolution else None
    )
    if row["code"] in _HOLD_CODES:
        shard = shard_of(bytes.fromhex(row["ref"][:32]))
        for side in ("debit", "credit"):
            if row[side] in (f"{code}:" for code in SPLIT):
                new[side] = row[side] + shard
    return new | {"digest": transfer_digest(new)}


def _fold(sums: dict[str, dict[str, int]], row: dict[str, Any], *, is_resolved: bool) -> None:
    """Add a transfer to the sums of both its accounts, as the book would have."""
    if row["state"] == "void" or (row["state"] == "pending" and is_resolved):
        # the accounts were touched all the same, and stay
        sums[row["debit"]], sums[row["credit"]]
        return
    kind = "pending" if row["state"] == "pending" else "posted"
    sums[row["debit"]][f"debits_{kind}"] += row["amount_nanos"]
    sums[row["credit"]][f"credits_{kind}"] += row["amount_nanos"]


def _batches(
    connection: Connection, query: str, key: str, first: int = 0
) -> Iterator[list[dict[str, Any]]]:
    after = first
    while True:
        found = connection.execute(text(query), {"after": after, "count": ROWS_AT_ONCE})
        rows = [dict(row) for row in found.mappings()]
        if not rows:
            return
        after = rows[-1][key]
        yield rows


def _joined(column: str) -> str:
    cases = " ".join(
        f"WHEN substr({column}, 1, {len(code) + 1}) = '{code}:' THEN '{code}:'" for code in SPLIT
    )
    return f"CASE {cases} ELSE {column} END"


def _shards() -> list[str]:
    return [f"{shard:02d}" for shard in range(SHARDS)]


def _empty(code: str, shard: str) -> dict[str, Any]:
    sums = dict.fromkeys(_SUMS, 0)
    return {"name": f"{code}:{shard}", "code": code, "owner": shard, "no_overdraft": True, **sums}
