"""Lanes in the database: opening one per lease within what its hold covers, loading, moving.

A lane is the watermark of `ledger/lane.py` as a row, beside the lease it belongs to.
"""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, or_, select, update

from ledger.balances import changed_rows
from ledger.bulk import insert_rows, is_one_of, update_rows
from ledger.database import Session, metadata
from ledger.errors import HoldResolved, HoldUnknown, LedgerError
from ledger.lane import Watermark
from ledger.leaf import LANES_PER_HOLD_MAX
from ledger.models import AMOUNT_NANOS_MAX, HoldRow, LaneRow
from protocol.envelope import Envelope
from protocol.errors import ProtocolError
from protocol.lease import Lease
from protocol.money import BASIS_POINTS, Nanos, Work
from protocol.record import decode_canonical, decode_fields

__all__ = [
    "ROWS_PER_QUERY",
    "Lane",
    "extend_lane",
    "lane_of",
    "load_lanes",
    "load_leases",
    "move_lanes",
    "open_lane",
    "open_lanes",
]

ROWS_PER_QUERY = 400
"""Two parameters a row stay below the 999 that old SQLite builds allow."""

_LEASES_CACHED = 16_384
"""About 3 KB each. Opening a lane fills it, so that its receipts need not parse the lease again."""

_LANE = metadata.tables[LaneRow.__tablename__]
_HOLD = metadata.tables[HoldRow.__tablename__]

_MARK_COLUMNS = (
    "last_sequence",
    "epoch",
    "steps",
    "tokens",
    "prefill_token_layers",
    "decode_token_layers",
    "bytes_in",
    "bytes_out",
    "link_in_hash",
    "link_out_hash",
    "amount_received_nanos",
    "final",
)
_MARK_OF = operator.itemgetter(*map(list(_LANE.c.keys()).index, _MARK_COLUMNS))
"""By place in a whole row: by name it takes ten times as long, of a thousand rows a batch."""


@dataclass(slots=True)
class Lane:
    """One lease and how far it has come; whoever loaded it moves `mark`."""

    lease: Lease
    envelope: bytes
    settled: bool
    mark: Watermark


def open_lane(session: Session, lease_envelope: bytes, lease: Lease) -> None:
    """`open_lanes` for one lease."""
    open_lanes(session, [(lease_envelope, lease)])


def open_lanes(session: Session, leases: Sequence[tuple[bytes, Lease]]) -> None:
    """Register leases of one hold when they are issued, with their envelopes; the same again is no
    error.

    The hold must cover everything its leases can earn, with the fee on top. Raises HoldUnknown,
    HoldResolved, or LedgerError if it does not, if hold or fee differ, or if an id is taken.
    """
    if any(_lease_in(envelope) != lease for envelope, lease in leases):
        raise LedgerError("The envelope does not hold this lease.")
    ids = [lease.lease_id for _, lease in leases]
    query = select(_LANE.c.lease_id, _LANE.c.lease).where(_LANE.c.lease_id.in_(ids))
    known = {row.lease_id: row.lease for row in session.execute(query)}
    for envelope, lease in leases:
        if known.get(lease.lease_id, envelope) != envelope:
            raise LedgerError(f"The lease id {lease.lease_id.hex()} is taken by another lease.")
    new = {lease.lease_id: (envelope, lease) for envelope, lease in leases}
    new = {lease_id: pair for lease_id, pair in new.items() if lease_id not in known}
    if not new:
        return
    _lease_from_hold(session, [lease for _, lease in new.values()])
    rows = [
        {
            "lease_id": lease.lease_id,
            "hold_id": lease.hold_id,
            "provider": str(lease.provider),
            "lease": envelope,
            "amount_nanos_max": lease.amount_nanos_max,
            "settle_by_s": lease.settle_by_s,
            "amount_settled_nanos": 0,
            "settled": False,
            **mark_columns(Watermark()),
        }
        for envelope, lease in new.values()
    ]
    insert_rows(session, _LANE, rows)


def extend_lane(session: Session, lease_envelope: bytes, lease: Lease) -> None:
    """Put a lease that was issued again, with higher limits, in the place of the one before.

    Its further amount is counted against the hold, which must have grown for it before. The same
    again is no error. Raises LedgerError if no such lane is open, if more than the limits differs
    or one of them is lower, or if the hold does not cover it; HoldUnknown or HoldResolved.
    """
    if _lease_in(lease_envelope) != lease:
        raise LedgerError("The envelope does not hold this lease.")
    hold = _lock_hold(session, lease.hold_id)
    query = select(_LANE.c.lease).where(_LANE.c.lease_id == lease.lease_id)
    known = session.execute(query.with_for_update(key_share=True)).scalar_one_or_none()
    if known is None:
        raise LedgerError(f"There is no lease {lease.lease_id.hex()} to extend.")
    if known == lease_envelope:
        return
    earlier = _lease_in(known)
    try:
        lease.check_grows_from(earlier)
    except ProtocolError as error:
        raise LedgerError(str(error)) from None
    _count_leased(session, hold, lease, lease.amount_nanos_max - earlier.amount_nanos_max)
    values = {
        "lease": lease_envelope,
        "amount_nanos_max": lease.amount_nanos_max,
        "settle_by_s": lease.settle_by_s,
    }
    session.execute(update(_LANE).where(_LANE.c.lease_id == lease.lease_id).values(values))


def load_leases(session: Session, lease_ids: Iterable[bytes]) -> dict[bytes, Lease]:
    """The leases of these ids as they are now, no row locked; unknown ids are left out."""
    leases: dict[bytes, Lease] = {}
    ordered = sorted(set(lease_ids))
    for start in range(0, len(ordered), ROWS_PER_QUERY):
        some = is_one_of(session, _LANE.c.lease_id, ordered[start : start + ROWS_PER_QUERY])
        # all at once: the driver takes longer over rows that are fetched one by one
        for lease_id, lease in session.execute(
            select(_LANE.c.lease_id, _LANE.c.lease).where(some)
        ).all():
            leases[lease_id] = _lease_in(lease)
    return leases


def load_lanes(
    session: Session, lease_ids: Iterable[bytes], *, lock: bool = True
) -> dict[bytes, Lane]:
    """The lanes of these leases, their rows locked in one order; unknown ids are left out."""
    lanes: dict[bytes, Lane] = {}
    ordered = sorted(set(lease_ids))
    for start in range(0, len(ordered), ROWS_PER_QUERY):
        query = (
            select(_LANE)
            .where(is_one_of(session, _LANE.c.lease_id, ordered[start : start + ROWS_PER_QUERY]))
            .order_by(_LANE.c.lease_id)
        )
        if lock:
            query = query.with_for_update(key_share=True)
        for row in session.execute(query).all():
            lanes[row.lease_id] = lane_of(row)
    return lanes


def lane_of(row: Row[Any]) -> Lane:
    """A whole row of the lanes' table as a lane."""
    return Lane(_lease_in(row.lease), row.lease, row.settled, _mark(row))


def move_lanes(session: Session, marks: Mapping[bytes, Watermark]) -> None:
    """Store new watermarks by lease id; the caller holds the rows' locks."""
    rows = [{"lease_id": lease_id, **mark_columns(mark)} for lease_id, mark in marks.items()]
    update_rows(session, _LANE, "lease_id", rows)


def _lease_from_hold(session: Session, leases: Sequence[Lease]) -> None:
    """Count the leases against their hold, only if it covers them all at this very moment."""
    first = leases[0]
    if any(
        (lease.hold_id, lease.fee_basis_points) != (first.hold_id, first.fee_basis_points)
        for lease in leases
    ):
        raise LedgerError("Leases that are opened together have one hold and one fee.")
    hold = _lock_hold(session, first.hold_id)
    lanes = select(func.count()).select_from(_LANE).where(_LANE.c.hold_id == first.hold_id)
    if session.execute(lanes).scalar_one() + len(leases) > LANES_PER_HOLD_MAX:
        raise LedgerError(f"A hold backs at most {LANES_PER_HOLD_MAX} leases.")
    last = max(leases, key=lambda lease: lease.settle_by_s)
    _count_leased(session, hold, last, sum(lease.amount_nanos_max for lease in leases))


def _lock_hold(session: Session, hold_id: bytes) -> Row[Any]:
    query = select(_HOLD).where(_HOLD.c.hold_id == hold_id).with_for_update(key_share=True)
    hold = session.execute(query).one_or_none()
    if hold is None:
        raise HoldUnknown(hold_id)
    if hold.charged_nanos is not None:
        raise HoldResolved(hold_id)
    return hold


def _count_leased(session: Session, hold: Row[Any], lease: Lease, more: Nanos) -> None:
    """Add `more` to what is leased under the hold, if with the fee it is covered."""
    leasable = _leasable_nanos(hold.amount_nanos, lease.fee_basis_points)
    same_fee = or_(
        _HOLD.c.fee_basis_points.is_(None), _HOLD.c.fee_basis_points == lease.fee_basis_points
    )
    statement = (
        update(_HOLD)
        .where(_HOLD.c.hold_id == lease.hold_id, _HOLD.c.leased_nanos + more <= leasable, same_fee)
        .values(
            leased_nanos=_HOLD.c.leased_nanos + more,
            fee_basis_points=lease.fee_basis_points,
            settle_by_s=max(hold.settle_by_s, lease.settle_by_s),
        )
    )
    if more > AMOUNT_NANOS_MAX or changed_rows(session, statement) != 1:
        raise LedgerError(
            f"The hold {lease.hold_id.hex()} does not cover this lease with its fee.",
            hint="Hold the price of all leases with the fee on top; one hold has one fee.",
        )


def _leasable_nanos(amount: Nanos, fee_basis_points: int) -> Nanos:
    """The most that can be earned under a hold so that the charge, fee included, stays within.

    The largest e with e * (10 000 + fee) // 10 000 <= amount.
    """
    return ((amount + 1) * BASIS_POINTS - 1) // (BASIS_POINTS + fee_basis_points)


@functools.lru_cache(maxsize=_LEASES_CACHED)
def _lease_in(envelope: bytes) -> Lease:
    # ours and stored by us; the signature was made when it was issued
    return decode_fields(Lease, decode_canonical(Envelope.decode(envelope).payload))


def mark_columns(mark: Watermark) -> dict[str, Any]:
    """The columns of a lane's row that follow from its last receipt."""
    return {
        "last_sequence": mark.sequence,
        "epoch": mark.epoch,
        "steps": mark.steps,
        "tokens": mark.tokens,
        "prefill_token_layers": mark.work.prefill_token_layers,
        "decode_token_layers": mark.work.decode_token_layers,
        "bytes_in": mark.work.bytes_in,
        "bytes_out": mark.work.bytes_out,
        "link_in_hash": mark.link_in_hash,
        "link_out_hash": mark.link_out_hash,
        "amount_received_nanos": mark.amount_nanos,
        "final": mark.final,
    }


def _mark(row: Row[Any]) -> Watermark:
    sequence, epoch, steps, tokens, *work, link_in, link_out, amount, final = _MARK_OF(row)
    return Watermark(sequence, epoch, steps, tokens, Work(*work), amount, link_in, link_out, final)
