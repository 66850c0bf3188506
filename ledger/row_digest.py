"""Names and digests of rows, computed from what the rows say: a changed value contradicts itself.

A transfer's key follows from its code and ref, so nobody can write the same movement twice, under
any name; its digest covers every other column. These catch accidents and careless hands. Who
rewrites a row and its digest is caught by the sums that must agree, and by the public log. Rows of
other tables have theirs from `ledger/digested.py`.
"""

import hashlib
from collections.abc import Mapping

from protocol.record import encode_canonical

__all__ = [
    "DIGEST_BYTES",
    "SECONDS_PER_WINDOW",
    "SHARDS",
    "receipt_digest",
    "row_digest",
    "shard_of",
    "transfer_digest",
    "transfer_id",
    "window_of",
]

DIGEST_BYTES = 16

SHARDS = 64
"""Accounts that every settlement touches are split by hold: requests do not queue for one row."""

SECONDS_PER_WINDOW = 86_400

_ID_DOMAIN = b"piecework/transfer-id/v1\0"
_TRANSFER_DOMAIN = b"piecework/transfer-row/v1\0"
_RECEIPT_DOMAIN = b"piecework/receipt-row/v1\0"
_ROW_DOMAIN = b"piecework/row/v1\0"
_TRANSFER_COLUMNS = (
    "id",
    "debit",
    "credit",
    "amount_nanos",
    "state",
    "pending_id",
    "code",
    "ref",
    "created_at_s",
    "expires_at_s",
)
_RECEIPT_COLUMNS = (
    "lease_id",
    "sequence",
    "window_index",
    "cosigned",
    "amount_nanos",
    "leaf_index",
    "received_at_s",
)


def transfer_id(code: str, ref: str) -> bytes:
    """A transfer's key: (code, ref) is what may happen once."""
    return _digest(_ID_DOMAIN + str(code).encode() + b"\0" + ref.encode())


def transfer_digest(row: Mapping[str, object]) -> bytes:
    """Over every other column of a transfer's row."""
    return _digest(_TRANSFER_DOMAIN + encode_canonical([row[name] for name in _TRANSFER_COLUMNS]))


def receipt_digest(row: Mapping[str, object]) -> bytes:
    """Over every other column of a receipt's row."""
    return _digest(_RECEIPT_DOMAIN + encode_canonical([row[name] for name in _RECEIPT_COLUMNS]))


def row_digest(table: str, values: Mapping[str, object]) -> bytes:
    """Over a row of any table: its name, and what each covered column says by name.

    values: int, str, bytes, bool or None, as `decode_canonical` would give them.
    """
    return _digest(_ROW_DOMAIN + table.encode() + b"\0" + encode_canonical(values))


def shard_of(hold_id: bytes) -> str:
    """Owner of the clearing and fee accounts that a hold passes through: "00" to "63"."""
    return f"{hold_id[0] % SHARDS:02d}"


def window_of(issued_at_s: int) -> int:
    """The window a lease's receipts are kept in: the day of its issue, counted from 1970."""
    return issued_at_s // SECONDS_PER_WINDOW


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]
