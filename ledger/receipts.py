"""Taking co-signed receipts: verify, compare with the lease's watermark, log, acknowledge.

Idempotent, and independent of order: the largest sequence counts, a smaller one that comes later is
acknowledged and pays nothing. Of each lease at most one receipt of a batch is stored, the one that
counts. What contradicts a receipt that already counts (the same sequence with other content, or a
later sequence that says less) is refused with the reason, and kept beside it as proof: that ends
the lease, see `ledger/equivocation.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy import select

from ledger.bulk import insert_rows, is_one_of
from ledger.database import Session, metadata
from ledger.equivocation import PAIRS_MAX, Pair, latest_receipt, record
from ledger.errors import ReceiptRejected
from ledger.lane import Watermark, check_order
from ledger.lanes import (
    ROWS_PER_QUERY,
    Lane,
    load_lanes,
    load_leases,
    move_lanes,
    open_lane,
)
from ledger.leaf import ReceiptLeaf
from ledger.log import Log
from ledger.models import ReceiptRow
from ledger.receipt_checks import (
    RECEIPTS_PER_BATCH_MAX,
    Claim,
    Verified,
    payload_of,
    verify_receipts,
)
from ledger.row_digest import receipt_digest, window_of
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.receipt import Receipt

__all__ = [
    "RECEIPTS_PER_BATCH_MAX",
    "ReceiptOutcome",
    "ReceiptStatus",
    "accept_receipts",
    "open_lane",
    "record_receipts",
    "verify_receipts",
]

_FRESH = Watermark()

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


def accept_receipts(
    session: Session, batch: Sequence[bytes], *, provider: PeerId, now_s: int
) -> list[ReceiptOutcome]:
    """Take a provider's encoded co-signed receipts; one outcome each, in their order.

    Nothing a stranger sends raises, except a batch above RECEIPTS_PER_BATCH_MAX. Outcomes may be
    told only after the caller has committed. Who takes many verifies before the transaction begins.
    """
    verified = verify_receipts(batch, partial(load_leases, session), provider=provider)
    return record_receipts(session, verified, now_s=now_s)


def record_receipts(session: Session, verified: Verified, *, now_s: int) -> list[ReceiptOutcome]:
    """Take what `verify_receipts` has checked; one outcome each, in the batch's order.

    Locks the lanes, then the log's head, which stays locked until the caller commits.
    """
    outcomes = {
        position: ReceiptOutcome(lease_id, ReceiptStatus.REJECTED, reason)
        for position, (lease_id, reason) in verified.refused.items()
    }
    lanes = load_lanes(session, {claim.receipt.lease_id for claim in verified.claims})
    outcomes.update(_judge_all(session, verified.claims, lanes, now_s))
    return [outcomes[position] for position in range(verified.size)]


def _judge_all(
    session: Session, claims: Sequence[Claim], lanes: Mapping[bytes, Lane], now_s: int
) -> dict[int, ReceiptOutcome]:
    # only what a lane's watermark has reached can be stored: mostly nothing is asked for
    stored = _load_stored(session, [claim for claim in claims if _is_reached(claim.receipt, lanes)])
    accepted: list[Claim] = []
    outcomes: dict[int, ReceiptOutcome] = {}
    twins: list[tuple[Claim, Claim]] = []
    refused: list[Claim] = []
    first: dict[tuple[bytes, int], Claim] = {}
    # the largest sequence first, so that one row of a lease is stored however many came
    for claim in sorted(claims, key=lambda claim: -claim.receipt.sequence):
        receipt = claim.receipt
        key = (receipt.lease_id, receipt.sequence)
        try:
            if twin := first.get(key):
                _check_same(claim, twin.encoded)
                twins.append((claim, twin))
                continue
            if known := stored.get(key):
                _check_same(claim, known[0])
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
            refused.append(claim)
    accepted.sort(key=lambda claim: claim.position)
    indexes = _store(session, accepted, lanes, now_s)
    for claim, index in zip(accepted, indexes, strict=True):
        outcomes[claim.position] = _outcome(claim, ReceiptStatus.ACCEPTED, leaf_index=index)
    for claim, twin in twins:
        twin_index = outcomes[twin.position].leaf_index
        outcomes[claim.position] = _outcome(claim, ReceiptStatus.DUPLICATE, leaf_index=twin_index)
    if refused:
        others = {key: claim.encoded for key, claim in first.items()}
        _prove(session, refused, {key: known[0] for key, known in stored.items()} | others, now_s)
    return outcomes


def _prove(
    session: Session,
    refused: Sequence[Claim],
    others: Mapping[tuple[bytes, int], bytes],
    now_s: int,
) -> None:
    """Keep what a payer has contradicted itself with, of those refused; not all of them do."""
    pairs: list[Pair] = []
    for claim in refused[:PAIRS_MAX]:
        lease_id = claim.receipt.lease_id
        other = others.get((lease_id, claim.receipt.sequence)) or latest_receipt(session, lease_id)
        if other is not None:
            pairs.append(Pair(lease_id, other, claim.encoded))
    record(session, pairs, now_s)


def _advance(lane: Lane, receipt: Receipt, now_s: int) -> bool:
    """Move the watermark; False if the receipt is behind it and agrees with it."""
    mark = Watermark.of(receipt)
    check_order(receipt.lease_id, _FRESH, mark)
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


def _is_reached(receipt: Receipt, lanes: Mapping[bytes, Lane]) -> bool:
    return receipt.sequence <= lanes[receipt.lease_id].mark.sequence


def _check_same(claim: Claim, encoded: bytes) -> None:
    """Equal content under equal sequence is a replay; anything else is equivocation."""
    if claim.encoded != encoded and claim.payload != payload_of(encoded):
        receipt = claim.receipt
        raise ReceiptRejected(
            receipt.lease_id,
            f"equivocation: the payer signed two different receipts {receipt.sequence}",
        )


def _store(
    session: Session, accepted: Sequence[Claim], lanes: Mapping[bytes, Lane], now_s: int
) -> range:
    """Leaf, receipt and watermark of each, in one transaction; gives the leaf indexes."""
    if not accepted:
        return range(0)
    # of each lease the one that counts moved the lane when it was judged
    lease_ids = [claim.receipt.lease_id for claim in accepted]
    move_lanes(session, {lease_id: lanes[lease_id].mark for lease_id in lease_ids})
    # the log's head comes late: nobody else appends until this transaction ends
    leaves = [
        ReceiptLeaf(lanes[claim.receipt.lease_id].envelope, claim.encoded) for claim in accepted
    ]
    indexes = Log(session).append(leaves)
    rows = [
        _row(claim, lanes[claim.receipt.lease_id].lease, index, now_s)
        for claim, index in zip(accepted, indexes, strict=True)
    ]
    insert_rows(session, _RECEIPT, rows)
    return indexes


def _row(claim: Claim, lease: Lease, leaf_index: int, now_s: int) -> dict[str, Any]:
    values: dict[str, Any] = {
        "lease_id": claim.receipt.lease_id,
        "sequence": claim.receipt.sequence,
        "window_index": window_of(lease.issued_at_s),
        "cosigned": claim.encoded,
        "amount_nanos": claim.receipt.amount_nanos,
        "leaf_index": leaf_index,
        "received_at_s": now_s,
    }
    return values | {"digest": receipt_digest(values)}


def _load_stored(
    session: Session, claims: Sequence[Claim]
) -> dict[tuple[bytes, int], tuple[bytes, int]]:
    """Receipts already stored under the claims' (lease, sequence): their bytes and leaf index."""
    keys = sorted({(claim.receipt.lease_id, claim.receipt.sequence) for claim in claims})
    stored: dict[tuple[bytes, int], tuple[bytes, int]] = {}
    for start in range(0, len(keys), ROWS_PER_QUERY):
        some = keys[start : start + ROWS_PER_QUERY]
        # a few more rows than asked for, where a lease has several sequences in the batch
        query = select(
            _RECEIPT.c.lease_id, _RECEIPT.c.sequence, _RECEIPT.c.cosigned, _RECEIPT.c.leaf_index
        ).where(
            is_one_of(session, _RECEIPT.c.lease_id, sorted({lease_id for lease_id, _ in some})),
            is_one_of(session, _RECEIPT.c.sequence, sorted({sequence for _, sequence in some})),
        )
        for lease_id, sequence, cosigned, leaf_index in session.execute(query).all():
            stored[lease_id, sequence] = (cosigned, leaf_index)
    return stored


def _outcome(
    claim: Claim, status: ReceiptStatus, reason: str = "", *, leaf_index: int | None = None
) -> ReceiptOutcome:
    receipt = claim.receipt
    return ReceiptOutcome(receipt.lease_id, status, reason, leaf_index, receipt.sequence)
