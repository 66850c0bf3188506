"""Disputes in the book: parking money, and moving it by a ruling. Nothing else moves it.

What is parked lies in `disputed:<lease>`. A ruling divides each lease's part between its provider
and the buyer who was charged, whole, in one transaction with its entries in the log. Nothing here
commits, and no dispute holds up any other settlement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from ledger.accounts import AccountCode, AccountRef
from ledger.balances import changed_rows
from ledger.book import Book
from ledger.database import Session, metadata
from ledger.dispute_models import (
    REASON_CHARACTERS_MAX,
    DisputeKind,
    DisputeLeaseRow,
    DisputeRow,
    DisputeState,
    MismatchRow,
)
from ledger.errors import DisputeRuled, DisputeUnknown, LedgerError
from ledger.leaf import ParkLeaf, RulingLeaf
from ledger.links import Mismatch
from ledger.log import Log
from ledger.rulings import Decision
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.money import Nanos

__all__ = [
    "PARK",
    "RULING",
    "Opening",
    "ParkedLease",
    "open_dispute",
    "park_paid",
    "rule",
]

PARK = "park"
"""Code of a transfer from a provider's earnings to `disputed`; ref = dispute:lease:source."""
RULING = "ruling"
"""Code of a transfer out of `disputed`; ref = dispute:lease:provider or :buyer."""

_DISPUTE = metadata.tables[DisputeRow.__tablename__]
_LEASE = metadata.tables[DisputeLeaseRow.__tablename__]
_MISMATCH = metadata.tables[MismatchRow.__tablename__]


@dataclass(frozen=True, slots=True)
class Opening:
    """A new dispute: what is claimed, and by whom where it is not the receipts themselves."""

    dispute_id: bytes
    kind: DisputeKind
    session_id: bytes
    claim: str
    opened_at_s: int
    filed_by: str = ""
    evidence: bytes = b""
    mismatches: Sequence[Mismatch] = ()


@dataclass(frozen=True, slots=True)
class ParkedLease:
    """What of one lease has gone to `disputed` for one dispute. `buyer`: who was charged."""

    lease_id: bytes
    provider: str
    parked_nanos: Nanos
    buyer: str


def open_dispute(session: Session, opening: Opening, parked: Sequence[ParkedLease]) -> None:
    """Write a dispute down, with what its settlement has parked already."""
    claim = opening.claim
    if len(claim) > REASON_CHARACTERS_MAX:
        claim = claim[: REASON_CHARACTERS_MAX - 1] + "…"
    values = {
        "dispute_id": opening.dispute_id,
        "kind": opening.kind.value,
        "session_id": opening.session_id,
        "state": DisputeState.OPEN.value,
        "claim": claim,
        "filed_by": opening.filed_by,
        "evidence": opening.evidence,
        "opened_at_s": opening.opened_at_s,
        "ruled_by": "",
        "ruling": "",
    }
    session.execute(insert(_DISPUTE), values)
    if parked:
        session.execute(insert(_LEASE), [_parked_row(opening.dispute_id, each) for each in parked])
    if opening.mismatches:
        rows = [_mismatch_row(opening.dispute_id, each) for each in opening.mismatches]
        session.execute(insert(_MISMATCH), rows)


def park_paid(
    session: Session,
    dispute_id: bytes,
    lease: Lease,
    *,
    buyer: str,
    sources: Sequence[AccountRef],
    nanos: Nanos,
    reason: str,
    now_s: int,
) -> list[ParkLeaf]:
    """Park what a lease was paid, as far as `sources` still have it, in their order.

    Never more than is there: what has been paid out is beyond reach; nor more of a lease than it
    was paid. Once a dispute and lease.
    Gives the entry that the caller must append to the log; none where nothing was there.
    """
    book, lease_hex = Book(session), lease.lease_id.hex()
    disputed = AccountRef(AccountCode.DISPUTED, lease_hex)
    # the lock comes first: who parks the same lease meanwhile must have been counted
    book.lock((disputed, *sources))
    nanos = max(nanos - _parked_before(session, lease.lease_id), 0)
    left = nanos
    for position, source in enumerate(sources):
        amount = min(left, max(book.balance(source).available_nanos, 0))
        if amount:
            ref = f"{dispute_id.hex()}:{lease_hex}:{position}"
            book.transfer(source, disputed, amount, code=PARK, ref=ref, now_s=now_s)
            left -= amount
    parked = nanos - left
    provider = str(lease.provider)
    row = ParkedLease(lease.lease_id, provider, parked, buyer)
    session.execute(insert(_LEASE), _parked_row(dispute_id, row))
    if not parked:
        return []
    return [ParkLeaf(dispute_id, lease.lease_id, lease.provider, parked, reason)]


def rule(
    session: Session,
    dispute_id: bytes,
    decisions: Sequence[Decision],
    *,
    reason: str,
    by: str,
    now_s: int,
) -> range:
    """Divide everything that is parked in a dispute; gives the indexes of the log's entries.

    The same ruling again changes nothing and gives an empty range. Raises DisputeUnknown,
    DisputeRuled where it was ruled otherwise, LedgerError where the decisions do not divide
    exactly what is parked.
    """
    if not 0 < len(reason) <= REASON_CHARACTERS_MAX:
        raise LedgerError(f"A ruling has a reason of at most {REASON_CHARACTERS_MAX} characters.")
    query = select(_DISPUTE).where(_DISPUTE.c.dispute_id == dispute_id).with_for_update()
    dispute = session.execute(query).one_or_none()
    if dispute is None:
        raise DisputeUnknown(dispute_id)
    rows = _parked_rows(session, dispute_id)
    by_lease = {decision.lease_id: decision for decision in decisions}
    if dispute.state == DisputeState.RULED:
        if len(by_lease) != len(decisions) or not _is_the_same(rows, by_lease):
            raise DisputeRuled(dispute_id)
        return range(0)
    _check_divides(rows, by_lease, len(decisions))
    _move(session, dispute_id, rows, by_lease, now_s)
    values = {
        "state": DisputeState.RULED.value, "ruled_at_s": now_s, "ruled_by": by, "ruling": reason,
    }  # fmt: skip
    ruled = update(_DISPUTE).where(
        _DISPUTE.c.dispute_id == dispute_id, _DISPUTE.c.state == DisputeState.OPEN.value
    )
    if changed_rows(session, ruled.values(values)) != 1:
        raise DisputeRuled(dispute_id)
    leaves = [
        RulingLeaf(
            dispute_id,
            row.lease_id,
            PeerId.from_text(row.provider),
            by_lease[row.lease_id].to_provider_nanos,
            by_lease[row.lease_id].to_buyer_nanos,
            reason,
        )
        for row in rows
        if row.parked_nanos
    ]
    return Log(session).append(leaves)


def _move(
    session: Session,
    dispute_id: bytes,
    rows: Sequence[Row[Any]],
    decisions: dict[bytes, Decision],
    now_s: int,
) -> None:
    legs = []
    for row in rows:
        decision = decisions[row.lease_id]
        source = AccountRef(AccountCode.DISPUTED, row.lease_id.hex())
        ref = f"{dispute_id.hex()}:{row.lease_id.hex()}"
        provider = AccountRef(AccountCode.PROVIDER_EARNED, row.provider)
        buyer = AccountRef(AccountCode.BUYER_CASH, row.buyer)
        legs.append((source, provider, decision.to_provider_nanos, f"{ref}:provider"))
        legs.append((source, buyer, decision.to_buyer_nanos, f"{ref}:buyer"))
    book = Book(session)
    book.lock([account for source, target, _, _ in legs for account in (source, target)])
    for source, target, nanos, ref in legs:
        if nanos:
            book.transfer(source, target, nanos, code=RULING, ref=ref, now_s=now_s)
    for row in rows:
        decision = decisions[row.lease_id]
        decided = update(_LEASE).where(
            _LEASE.c.dispute_id == dispute_id, _LEASE.c.lease_id == row.lease_id
        )
        values = {
            "to_provider_nanos": decision.to_provider_nanos,
            "to_buyer_nanos": decision.to_buyer_nanos,
        }
        session.execute(decided.values(values))


def _parked_before(session: Session, lease_id: bytes) -> Nanos:
    """What of a lease is or was parked: it is not parked again out of what others earned."""
    query = select(func.coalesce(func.sum(_LEASE.c.parked_nanos), 0))
    return int(session.execute(query.where(_LEASE.c.lease_id == lease_id)).scalar_one())


def _parked_rows(session: Session, dispute_id: bytes) -> Sequence[Row[Any]]:
    query = select(_LEASE).where(_LEASE.c.dispute_id == dispute_id).order_by(_LEASE.c.lease_id)
    return session.execute(query.with_for_update()).all()


def _check_divides(rows: Sequence[Row[Any]], decisions: dict[bytes, Decision], given: int) -> None:
    if given != len(decisions) or set(decisions) != {row.lease_id for row in rows}:
        raise LedgerError("A ruling decides on each lease of its dispute, and on no other, once.")
    for row in rows:
        decision = decisions[row.lease_id]
        parts = (decision.to_provider_nanos, decision.to_buyer_nanos)
        if min(parts) < 0 or sum(parts) != row.parked_nanos:
            raise LedgerError(
                f"Lease {row.lease_id.hex()} has {row.parked_nanos} nanos parked;"
                f" {parts[0]} and {parts[1]} do not divide them.",
                hint="Both parts together are what is parked, none below zero.",
            )


def _is_the_same(rows: Sequence[Row[Any]], decisions: dict[bytes, Decision]) -> bool:
    return set(decisions) == {row.lease_id for row in rows} and all(
        (row.to_provider_nanos, row.to_buyer_nanos)
        == (decisions[row.lease_id].to_provider_nanos, decisions[row.lease_id].to_buyer_nanos)
        for row in rows
    )


def _parked_row(dispute_id: bytes, parked: ParkedLease) -> dict[str, object]:
    return {
        "dispute_id": dispute_id,
        "lease_id": parked.lease_id,
        "provider": parked.provider,
        "buyer": parked.buyer,
        "parked_nanos": parked.parked_nanos,
    }


def _mismatch_row(dispute_id: bytes, mismatch: Mismatch) -> dict[str, object]:
    sender, receiver = mismatch.sender, mismatch.receiver
    return {
        "sender_lease": sender.lease_id,
        "receiver_lease": receiver.lease_id,
        "epoch": sender.epoch,
        "steps": sender.steps,
        "dispute_id": dispute_id,
        "sender": str(sender.provider),
        "receiver": str(receiver.provider),
        "hop_index": sender.hop_index,
        "link_out_hash": sender.link_out_hash,
        "link_in_hash": receiver.link_in_hash,
        "bytes_out": sender.bytes_out,
        "bytes_in": receiver.bytes_in,
    }
