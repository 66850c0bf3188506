"""Verifying co-signed receipts against their leases: everything that needs no lock and no order.

Two signatures a receipt are most of what taking it costs, so they are checked before the
transaction that records it begins. A lease may be extended between the two; its limits only rise,
so what was verified stays so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from ledger.errors import LedgerError, ReceiptRejected
from protocol.envelope import Envelope, open_envelope
from protocol.errors import LimitExceeded, ProtocolError, VerificationError, WrongSigner
from protocol.identity import PeerId
from protocol.lease import ID_BYTES, Lease
from protocol.receipt import CosignedReceipt, Receipt

__all__ = ["RECEIPTS_PER_BATCH_MAX", "Claim", "Verified", "payload_of", "verify_receipts"]

RECEIPTS_PER_BATCH_MAX = 1000
"""Bounds what one batch costs: about a tenth of a second of signatures."""

LoadLeases = Callable[[Iterable[bytes]], Mapping[bytes, Lease]]
"""Gives the leases of these ids that were issued here."""

_LEASE_ID = b"\x68lease_id\x50"
"""A key of eight letters and, behind it, the head of sixteen bytes, in CBOR."""

_RECEIPTS_PER_TASK = 64
"""What one thread takes at a time: long enough to be worth the handing over."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One receipt of a batch that verified under its lease."""

    position: int
    encoded: bytes
    payload: bytes
    """What the payer signed: the receipt's canonical bytes."""
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Verified:
    """A batch after its signatures: what may be recorded, and what is refused, by position."""

    size: int
    claims: Sequence[Claim]
    refused: Mapping[int, tuple[bytes, str]] = field(default_factory=dict)
    """Lease id, empty if the bytes name none, and the reason."""


@dataclass(frozen=True, slots=True)
class _Opened:
    position: int
    encoded: bytes
    cosigned: CosignedReceipt
    envelope: Envelope
    lease_id: bytes


def verify_receipts(
    batch: Sequence[bytes],
    load_leases: LoadLeases,
    *,
    provider: PeerId,
    pool: Executor | None = None,
) -> Verified:
    """Check each receipt's form, lease, amount and both signatures. Writes nothing.

    pool: threads to spread signatures over; they are checked without the interpreter's lock.
    Nothing a stranger sends raises, except a batch above RECEIPTS_PER_BATCH_MAX.
    """
    if len(batch) > RECEIPTS_PER_BATCH_MAX:
        raise LedgerError(f"A batch has at most {RECEIPTS_PER_BATCH_MAX} receipts.")
    refused: dict[int, tuple[bytes, str]] = {}
    opened: list[_Opened] = []
    for position, encoded in enumerate(batch):
        try:
            opened.append(_open(position, encoded))
        except (ProtocolError, VerificationError) as error:
            refused[position] = (b"", str(error))
    leases = load_leases({item.lease_id for item in opened})

    def verify(items: Sequence[_Opened]) -> list[Claim | ReceiptRejected]:
        return [_verify(item, leases.get(item.lease_id), provider) for item in items]

    tasks = [
        opened[start : start + _RECEIPTS_PER_TASK]
        for start in range(0, len(opened), _RECEIPTS_PER_TASK)
    ]
    results = pool.map(verify, tasks) if pool else map(verify, tasks)
    claims: list[Claim] = []
    for items, found in zip(tasks, results, strict=True):
        for item, result in zip(items, found, strict=True):
            if isinstance(result, ReceiptRejected):
                refused[item.position] = (item.lease_id, result.reason)
            else:
                claims.append(result)
    return Verified(len(batch), claims, refused)


def _open(position: int, encoded: bytes) -> _Opened:
    cosigned = CosignedReceipt.decode(encoded)
    envelope = Envelope.decode(cosigned.envelope)
    return _Opened(position, encoded, cosigned, envelope, _lease_id_in(envelope.payload))


def _lease_id_in(payload: bytes) -> bytes:
    """Which lease a receipt says it is under, before anything in it is trusted; or nothing.

    Found by its encoding, for parsing twice costs as much as a signature. In canonical order only
    numbers stand before it; were it something else, the receipt would be refused when it is opened.
    """
    start = payload.find(_LEASE_ID) + len(_LEASE_ID)
    return payload[start : start + ID_BYTES] if start >= len(_LEASE_ID) else b""


def _verify(item: _Opened, lease: Lease | None, provider: PeerId) -> Claim | ReceiptRejected:
    if lease is None:
        return ReceiptRejected(item.lease_id, "no such lease was issued here")
    if lease.provider != provider:
        return ReceiptRejected(item.lease_id, "the lease is another provider's")
    try:
        item.cosigned.verify_provider(lease.provider)
        receipt = open_envelope(Receipt, item.envelope, signer=PeerId(lease.payer_key))
        _check_receipt(receipt, lease)
    except (ProtocolError, VerificationError) as error:
        return ReceiptRejected(item.lease_id, str(error))
    return Claim(item.position, item.encoded, item.envelope.payload, receipt)


def _check_receipt(receipt: Receipt, lease: Lease) -> None:
    """As `protocol.receipt.open_receipt` does after the signature. Raises VerificationError."""
    if receipt.lease_id != lease.lease_id:
        raise WrongSigner("The receipt names another lease.")
    expected = lease.amount_for(receipt.work)
    if receipt.amount_nanos != expected:
        raise LimitExceeded(
            f"The receipt says {receipt.amount_nanos} nanos; its work is worth {expected}."
        )


def payload_of(encoded: bytes) -> bytes:
    """What the payer signed, of a co-signed receipt that is stored here."""
    return Envelope.decode(CosignedReceipt.decode(encoded).envelope).payload
