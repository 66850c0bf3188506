"""Rows of `ledger_transfer`: making them, writing many at once, and finding one by what it is.

Only `book.py` and `resolving.py` write here, with the balances in the same transaction.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from ledger.accounts import AccountRef
from ledger.bulk import insert_rows
from ledger.database import Session, metadata
from ledger.errors import TransferConflict, Unbalanced
from ledger.models import AMOUNT_NANOS_MAX, TransferRow, TransferState
from ledger.row_digest import transfer_digest, transfer_id
from protocol.money import Nanos

__all__ = ["check_amount", "find_transfer", "same_movement", "transfer_values", "write_transfers"]

_TRANSFER = metadata.tables[TransferRow.__tablename__]


def transfer_values(
    debit: AccountRef,
    credit: AccountRef,
    amount_nanos: Nanos,
    *,
    code: str,
    ref: str,
    now_s: int,
    state: TransferState = TransferState.POSTED,
    pending_id: bytes | None = None,
    expires_at_s: int | None = None,
) -> dict[str, Any]:
    """One row with its key and digest. Amounts in nanos, times in unix seconds."""
    values: dict[str, Any] = {
        "id": transfer_id(code, ref),
        "debit": debit.name,
        "credit": credit.name,
        "amount_nanos": amount_nanos,
        "state": state.value,
        "pending_id": pending_id,
        "code": str(code),
        "ref": ref,
        "created_at_s": now_s,
        "expires_at_s": expires_at_s,
    }
    return values | {"digest": transfer_digest(values)}


def write_transfers(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows made by `transfer_values`; IntegrityError if one of them was written before."""
    insert_rows(session, _TRANSFER, rows)


def find_transfer(session: Session, code: str, ref: str) -> TransferRow | None:
    """The movement of this code and ref, if it was ever made."""
    query = select(_TRANSFER).where(_TRANSFER.c.id == transfer_id(code, ref))
    row = session.execute(query).one_or_none()
    return TransferRow(**row._mapping) if row else None


def same_movement(
    row: TransferRow, debit: AccountRef, credit: AccountRef, amount: Nanos
) -> TransferRow:
    """The row, if it is this movement. Raises TransferConflict."""
    if (row.debit, row.credit, row.amount_nanos) != (debit.name, credit.name, amount):
        raise TransferConflict(row.code, row.ref)
    return row


def check_amount(amount: Nanos) -> None:
    """Raise Unbalanced unless this can be moved."""
    # a float or a bool here is a bug; `type` is exact on purpose
    if type(amount) is not int or not 0 < amount <= AMOUNT_NANOS_MAX:
        raise Unbalanced(f"{amount!r} is not a whole amount in (0, {AMOUNT_NANOS_MAX}] nanos.")
