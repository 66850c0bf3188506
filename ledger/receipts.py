"""Taking co-signed receipts: verify, compare with the lease's watermark, log, acknowledge.

Idempotent, and independent of order: the largest sequence counts, a smaller one that comes later is
acknowledged and pays nothing. Of each lease at most one receipt of a batch is stored, the one that
counts. What contradicts a receipt that already counts (the same sequence with other content, or a
later sequence that says less) is refused with the reason; the first to come stands, which a
provider cannot gain by, for the payer signed both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import insert, select, tuple_

from ledger.database import Session, metadata
from ledger.errors import LedgerError, ReceiptRejected
from ledger.lane import Watermark, check_order
from ledger.lanes import ROWS_PER_QUERY, Lane, load_lanes, move_lanes, open_lane
from ledger.leaf import ReceiptLeaf
from ledger.log import Log
from ledger.models import ReceiptRow
from protocol.envelope import Envelope
from protocol.errors import ProtocolError, VerificationError
from protocol.identity import PeerId
from protocol.receipt import CosignedReceipt, Receipt
from protocol.record import decode_canonical, encode_canonical, encode_fields

__all__ = [
    "RECEIPTS_PER_BATCH_MAX",
    "ReceiptOutcome",
    "ReceiptStatus",
    "accept_receipts",
    "open_lane",
]

RECEIPTS_PER_BATCH_MAX = 1000
"""Bounds the time one batch holds the write lock: about a second of signatures."""

_RECEIPT = metadata.tables[ReceiptRow.__tablename__]


class ReceiptStatus(StrEnum):
    """What became of a receipt. Only `rejected` is not an acknowledgement."""

    ACCEPTED = "accepted"
    """It counts now; its leaf index is new."""
    DUPLICATE = "duplicate"
    """It was accepted before, with the leaf index that is given again."""
    SUPERSEDED = "superseded"
    """A later receipt of the lease counts already and says at least as much."""
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class ReceiptOutcome:
    """The answer to one receipt of a batch; in the batch's order."""

    lease_id: bytes
    """Empty if the bytes did not even name a lease."""
    status: ReceiptStatus
    reason: str = ""
    leaf_index: int | None = None
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class _Claim:
    """One receipt of the batch that verified under its lease."""

    position: int
    encoded: bytes
    receipt: Receipt


def accept_receipts(
    session: Session, batch: Sequence[bytes], *, provider: PeerId, now_s: int
) -> list[ReceiptOutcome]:
    """Take a provider's encoded co-signed receipts; one outcome each, in their order.

    Nothing a stranger sends raises, except a batch above RECEIPTS_PER_BATCH_MAX. Outcomes may be
    told only after the caller has committed.
    """
    if len(batch) > RECEIPTS_PER_BATCH_MAX:
        raise LedgerError(f"A batch has at most {RECEIPTS_PER_BATCH_MAX} receipts.")
    outcomes: dict[int, ReceiptOutcome] = {}
    opened: list[tuple[int, CosignedReceipt, bytes]] = []
    for position, encoded in enumerate(batch):
        try:
            opened.append((position, *_peek(encoded)))
        except (ProtocolError, VerificationError) as error:
            outcomes[position] = ReceiptOutcome(b"", ReceiptStatus.REJECTED, str(error))
    lanes = load_lanes(session, {lease_id for _, _, lease_id in opened})
    claims: list[_Claim] = []
    for position, cosigned, lease_id in opened:
        try:
            receipt = _verify(cosigned, lease_id, lanes.get(lease_id), provider)
            claims.append(_Claim(position, batch[position], receipt))
        except ReceiptRejected as error:
            outcomes[position] = ReceiptOutcome(lease_id, ReceiptStatus.REJECTED, error.reason)
    outcomes.update(_judge_all(session, claims, lanes, now_s))
    return [outcomes[position] for position in range(len(batch))]


def _judge_all(
    session: Session, claims: Sequence[_Claim], lanes: Mapping[bytes, Lane], now_s: int
) -> dict[int, ReceiptOutcome]:
    stored = _load_stored(session, claims)
    accepted: list[_Claim] = []
    outcomes: dict[int, ReceiptOutcome] = {}
    twins: list[tuple[_Claim, _Claim]] = []
    first: dict[tuple[bytes, int], _Claim] = {}
    # the largest sequence first, so that one row of a lease is stored however many came
    for claim in sorted(claims, key=lambda claim: -claim.receipt.sequence):
        receipt = claim.receipt
        key = (receipt.lease_id, receipt.sequence)
        try:
            if twin := first.get(key):
                _check_same(receipt, twin.encoded)
                twins.append((claim, twin))
                continue
            if known := stored.get(key):
                _check_same(receipt, known[0])
                outcomes[claim.position] = _outcome(
                    claim, ReceiptStatus.DUPLICATE, leaf_index=known[1]
                )
                continue
            if _advance(lanes[receipt.lease_id], receipt, now_s):
                accepted.append(claim)
                first[key] = claim
            else:
                outcomes[claim.position] = _outcome(claim, ReceiptStatus.SUPERSEDED)
        except ReceiptRejected as error:
            outcomes[claim.position] = _outcome(claim, ReceiptStatus.REJECTED, error.reason)
    accepted.sort(key=lambda claim: claim.position)
    indexes = _store(session, accepted, lanes, now_s)
    for claim, index in zip(accepted, indexes, strict=True):
        outcomes[claim.position] = _outcome(claim, ReceiptStatus.ACCEPTED, leaf_index=index)
    for claim, twin in twins:
        twin_index = outcomes[twin.position].leaf_index
        outcomes[claim.position] = _outcome(claim, ReceiptStatus.DUPLICATE, leaf_index=twin_index)
    return outcomes


def _peek(encoded: bytes) -> tuple[CosignedReceipt, bytes]:
    """Which lease a receipt says it is under, before anything in it is trusted."""
    cosigned = CosignedReceipt.decode(encoded)
    payload = _field(cosigned.envelope, "payload")
    return cosigned, _field(payload, "lease_id") if payload else b""


def _field(record: bytes, name: str) -> bytes:
    fields = decode_canonical(record)
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, bytes) else b""


def _verify(
    cosigned: CosignedReceipt, lease_id: bytes, lane: Lane | None, provider: PeerId
) -> Receipt:
    if lane is None:
        raise ReceiptRejected(lease_id, "no such lease was issued here")
    if lane.lease.provider != provider:
        raise ReceiptRejected(lease_id, "the lease is another provider's")
    try:
        return cosigned.open(lane.lease)
    except (ProtocolError, VerificationError) as error:
        raise ReceiptRejected(lease_id, str(error)) from None


def _advance(lane: Lane, receipt: Receipt, now_s: int) -> bool:
    """Move the watermark; False if the receipt is behind it and agrees with it."""
    mark = Watermark.of(receipt)
    check_order(receipt.lease_id, Watermark(), mark)
    if mark.sequence < lane.mark.sequence:
        check_order(receipt.lease_id, mark, lane.mark)
        return False
    if mark.sequence == lane.mark.sequence:
        raise ReceiptRejected(receipt.lease_id, "the watermark's receipt is not stored")
    if lane.settled:
        raise ReceiptRejected(receipt.lease_id, "the lease is already settled")
    if now_s > lane.lease.settle_by_s:
        raise ReceiptRejected(
            receipt.lease_id, f"receipts were taken until {lane.lease.settle_by_s}"
        )
    check_order(receipt.lease_id, lane.mark, mark)
    lane.mark = mark
    return True


def _check_same(receipt: Receipt, encoded: bytes) -> None:
    """Equal content under equal sequence is a replay; anything else is equivocation."""
    payload = Envelope.decode(CosignedReceipt.decode(encoded).envelope).payload
    if payload != encode_canonical(encode_fields(receipt)):
        raise ReceiptRejected(
            receipt.lease_id,
            f"equivocation: the payer signed two different receipts {receipt.sequence}",
        )


def _store(
    session: Session, accepted: Sequence[_Claim], lanes: Mapping[bytes, Lane], now_s: int
) -> range:
    """Leaf, receipt and watermark of each, in one transaction; gives the leaf indexes."""
    if not accepted:
        return range(0)
    leaves = [
        ReceiptLeaf(lanes[claim.receipt.lease_id].envelope, claim.encoded) for claim in accepted
    ]
    indexes = Log(session).append(leaves)
    rows = [
        {
            "lease_id": claim.receipt.lease_id,
            "sequence": claim.receipt.sequence,
            "cosigned": claim.encoded,
            "amount_nanos": claim.receipt.amount_nanos,
            "leaf_index": index,
            "received_at_s": now_s,
        }
        for claim, index in zip(accepted, indexes, strict=True)
    ]
    session.execute(insert(_RECEIPT), rows)
    marks = {claim.receipt.lease_id: Watermark.of(claim.receipt) for claim in accepted}
    move_lanes(session, marks)
    return indexes


def _load_stored(
    session: Session, claims: Sequence[_Claim]
) -> dict[tuple[bytes, int], tuple[bytes, int]]:
    """Receipts already stored under the claims' (lease, sequence): their bytes and leaf index."""
    keys = sorted({(claim.receipt.lease_id, claim.receipt.sequence) for claim in claims})
    stored: dict[tuple[bytes, int], tuple[bytes, int]] = {}
    key_columns = tuple_(_RECEIPT.c.lease_id, _RECEIPT.c.sequence)
    for start in range(0, len(keys), ROWS_PER_QUERY):
        query = select(
            _RECEIPT.c.lease_id, _RECEIPT.c.sequence, _RECEIPT.c.cosigned, _RECEIPT.c.leaf_index
        ).where(key_columns.in_(keys[start : start + ROWS_PER_QUERY]))
        for lease_id, sequence, cosigned, leaf_index in session.execute(query):
            stored[lease_id, sequence] = (cosigned, leaf_index)
    return stored


def _outcome(
    claim: _Claim, status: ReceiptStatus, reason: str = "", *, leaf_index: int | None = None
) -> ReceiptOutcome:
    receipt = claim.receipt
    return ReceiptOutcome(receipt.lease_id, status, reason, leaf_index, receipt.sequence)
