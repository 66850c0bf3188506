"""The book's rows against themselves: what SQL cannot compute is computed here, a batch at a time.

Transfers and receipts carry a key or a digest that follows from their other columns, and so do the
rows of every table in `ledger/digested.py`, the marketplace's among them; a lane follows from its
lease, which we signed, and from the receipt that counts, which payer and provider signed.
`ledger/invariants.py` has the sums, `ledger/log_check.py` the log and the signatures of receipts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from sqlalchemy import Column, Table, and_, select

from ledger.database import Session, metadata
from ledger.digested import broken_rows, digested
from ledger.dispute_models import EquivocationRow
from ledger.invariants import VIOLATIONS_PER_RULE_MAX, Violation
from ledger.lane import Watermark
from ledger.lanes import mark_columns
from ledger.models import HoldRow, LaneRow, ReceiptRow, TransferRow
from ledger.receipt_checks import payload_of
from ledger.row_digest import receipt_digest, transfer_digest, transfer_id, window_of
from protocol.envelope import Envelope, open_envelope
from protocol.errors import PieceworkError
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.receipt import Receipt
from protocol.record import decode_canonical, decode_fields

__all__ = ["check"]

Row = Mapping[str, Any]

ROWS_AT_ONCE = 2_000
"""A few megabytes, however large the book is."""

_TRANSFER = metadata.tables[TransferRow.__tablename__]
_RECEIPT = metadata.tables[ReceiptRow.__tablename__]
_LANE = metadata.tables[LaneRow.__tablename__]
_EQUIVOCATION = metadata.tables[EquivocationRow.__tablename__]
_HOLD = metadata.tables[HoldRow.__tablename__]


def check(session: Session, market_key: PeerId | None = None) -> list[Violation]:
    """Every row that contradicts itself, at most VIOLATIONS_PER_RULE_MAX a table.

    market_key: who signed the leases; without it their signatures are not looked at.
    """
    violations: list[Violation] = []
    for found in (
        _broken_transfers(session),
        _broken_receipts(session),
        _broken_lanes(session, market_key),
        *(_contradicting(session, table) for table in digested()),
    ):
        violations += islice(found, VIOLATIONS_PER_RULE_MAX)
    return violations


def _contradicting(session: Session, table: Table) -> Iterator[Violation]:
    for detail in broken_rows(session, table):
        yield Violation("rows", detail)


def _broken_transfers(session: Session) -> Iterator[Violation]:
    for row in _rows(session, _TRANSFER, _TRANSFER.c.id):
        wrong = _contradictions(
            row,
            id=lambda row: transfer_id(row["code"], row["ref"]),
            digest=transfer_digest,
            pending_id=_resolved_by,
        )
        if wrong:
            yield Violation("I2", f"transfer {row['id'].hex()} contradicts its {wrong}")


def _resolved_by(row: Row) -> bytes | None:
    """A resolution has the ref of the hold's part that it resolves."""
    return transfer_id("hold", row["ref"]) if row["state"] in ("post", "void") else None


def _broken_receipts(session: Session) -> Iterator[Violation]:
    for row in _rows(session, _RECEIPT, _RECEIPT.c.leaf_index, first=-1):
        wrong = _contradictions(
            row,
            digest=receipt_digest,
            lease_id=lambda row: _receipt_in(row["cosigned"]).lease_id,
            sequence=lambda row: _receipt_in(row["cosigned"]).sequence,
            amount_nanos=lambda row: _receipt_in(row["cosigned"]).amount_nanos,
        )
        if wrong:
            name = f"receipt {row['sequence']} of lease {row['lease_id'].hex()}"
            yield Violation("I8", f"{name} contradicts its {wrong}")


def _broken_lanes(session: Session, market_key: PeerId | None) -> Iterator[Violation]:
    for row in _lanes(session):
        try:
            lease = _lease_in(row["lease"], market_key)
            expected = _columns_of(lease, row["cosigned"], row["equivocated_nanos"])
        except PieceworkError as error:
            yield Violation("I5", f"lease {row['lease_id'].hex()} cannot be read: {error}")
            continue
        wrong = [name for name, value in expected.items() if row[name] != value]
        if row["window_index"] not in (None, window_of(lease.issued_at_s)):
            wrong.append("receipt's window_index")
        if wrong:
            name = f"lease {row['lease_id'].hex()} of hold {row['hold_id'].hex()}"
            yield Violation("I5", f"{name} says otherwise than its {', '.join(wrong)}")


def _columns_of(
    lease: Lease, cosigned: bytes | None, equivocated_nanos: int | None
) -> dict[str, Any]:
    """What a lane's row says if it is right, of everything that settling does not change."""
    mark = Watermark() if cosigned is None else Watermark.of(_receipt_in(cosigned))
    if equivocated_nanos is not None:
        # its payer contradicted itself: that ended the lease, at the larger amount
        mark = replace(mark, final=True, amount_nanos=equivocated_nanos)
    return {
        "lease_id": lease.lease_id,
        "hold_id": lease.hold_id,
        "provider": str(lease.provider),
        "amount_nanos_max": lease.amount_nanos_max,
        "settle_by_s": lease.settle_by_s,
        "fee_basis_points": lease.fee_basis_points,
        **mark_columns(mark),
    }


def _contradictions(row: Row, **columns: Callable[[Row], object]) -> str:
    """Names of columns that do not have the value which follows from the others."""
    wrong = []
    for name, computed in columns.items():
        try:
            is_right = row[name] == computed(row)
        except PieceworkError:
            is_right = False
        if not is_right:
            wrong.append(name)
    return ", ".join(wrong)


def _lanes(session: Session) -> Iterator[Row]:
    """Each lane with its hold's fee and the receipt that counts, if there is one."""
    counted = and_(
        _RECEIPT.c.lease_id == _LANE.c.lease_id, _RECEIPT.c.sequence == _LANE.c.last_sequence
    )
    query = (
        select(
            _LANE,
            _HOLD.c.fee_basis_points,
            _RECEIPT.c.cosigned,
            _RECEIPT.c.window_index,
            _EQUIVOCATION.c.amount_nanos.label("equivocated_nanos"),
        )
        .join(_HOLD, _HOLD.c.hold_id == _LANE.c.hold_id, isouter=True)
        .join(_RECEIPT, counted, isouter=True)
        .join(_EQUIVOCATION, _EQUIVOCATION.c.lease_id == _LANE.c.lease_id, isouter=True)
    )
    return _pages(session, query, _LANE.c.lease_id, b"")


def _rows(session: Session, table: Table, key: Column[Any], first: object = b"") -> Iterator[Row]:
    return _pages(session, select(table), key, first)


def _pages(session: Session, query: Any, key: Column[Any], first: object) -> Iterator[Row]:
    """Rows in the order of `key`, ROWS_AT_ONCE in memory."""
    after = first
    while True:
        page = query.where(key > after).order_by(key).limit(ROWS_AT_ONCE)
        rows = [dict(row) for row in session.execute(page).mappings()]
        yield from rows
        if len(rows) < ROWS_AT_ONCE:
            return
        after = rows[-1][key.name]


def _lease_in(envelope: bytes, market_key: PeerId | None) -> Lease:
    if market_key is not None:
        return open_envelope(Lease, envelope, signer=market_key)
    return decode_fields(Lease, decode_canonical(Envelope.decode(envelope).payload))


def _receipt_in(cosigned: bytes) -> Receipt:
    return decode_fields(Receipt, decode_canonical(payload_of(cosigned)))
