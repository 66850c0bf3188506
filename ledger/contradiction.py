"""Two receipts of one payer that cannot both be true, and the file that proves it. Pure.

A payer signs one growing account per lease. Equal sequence with other content, or a later sequence
that says less, is equivocation: two signatures of one key, so anyone can check it with the lease
alone, offline and without asking the marketplace.
"""

from dataclasses import dataclass, replace

from ledger.errors import AuditFailed, ReceiptRejected
from ledger.lane import Watermark, check_order
from protocol.envelope import open_envelope
from protocol.errors import ProtocolError, VerificationError
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.receipt import CosignedReceipt, Receipt
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields

__all__ = ["PROOF_BYTES_MAX", "EquivocationProof", "contradicts", "verify_proof"]

PROOF_BYTES_MAX = 16 * 1024
"""A lease and two receipts are under 4 KiB."""

_KIND = "piecework/equivocation/v1"


@dataclass(frozen=True, slots=True)
class EquivocationProof:
    """Everything needed to see that a lease's payer key has contradicted itself."""

    lease_envelope: bytes
    first: bytes
    """Co-signed receipts, as they were handed in."""
    second: bytes

    def encode(self) -> bytes:
        """The file's bytes."""
        return encode_canonical([_KIND, encode_fields(self)])

    @classmethod
    def decode(cls, data: bytes) -> "EquivocationProof":
        """Parse a file; raises AuditFailed for anything that is not exactly one."""
        try:
            value = decode_canonical(data, size_max=PROOF_BYTES_MAX)
            if not isinstance(value, list) or len(value) != 2 or value[0] != _KIND:
                raise AuditFailed("The file is no proof of equivocation.")
            return decode_fields(cls, value[1])
        except ProtocolError as error:
            raise AuditFailed(f"The proof does not parse: {error}") from None


def contradicts(first: Receipt, second: Receipt) -> bool:
    """Whether no honest payer could have signed both under one lease. The order is no matter.

    More that is signed after the final one is refused, but contradicts nothing.
    """
    if first.sequence == second.sequence:
        return first != second
    earlier, later = sorted((first, second), key=lambda receipt: receipt.sequence)
    try:
        mark = replace(Watermark.of(earlier), final=False)
        check_order(first.lease_id, mark, Watermark.of(later))
    except ReceiptRejected:
        return True
    return False


def verify_proof(
    proof: EquivocationProof, market_key: PeerId | None = None
) -> tuple[Lease, Receipt, Receipt]:
    """The lease and both receipts, if the proof holds; raises AuditFailed.

    market_key: whose leases are believed; None: whoever signed it, which still proves that the
    lease's payer key has signed both.
    """
    try:
        lease = open_envelope(Lease, proof.lease_envelope, signer=market_key)
        first, second = (_open(each, lease) for each in (proof.first, proof.second))
    except (ProtocolError, VerificationError) as error:
        raise AuditFailed(f"The proof does not hold: {error}") from None
    if not contradicts(first, second):
        raise AuditFailed("The proof does not hold: both receipts can be true.")
    return lease, first, second


def _open(encoded: bytes, lease: Lease) -> Receipt:
    return CosignedReceipt.decode(encoded).open(lease)
