"""Receipt: what one hop has carried under one lease *so far*.

Cumulative and signed by the payer key: the one with the largest sequence counts, so replaying an
old one, or handing in the same twice, is worth nothing. A session that was repaired goes on in the
next epoch: steps and link hashes begin anew there, what was carried does not. The hop's
countersignature over the very envelope makes it a co-signed receipt: both sides are bound to the
same bytes.
"""

from dataclasses import dataclass
from typing import ClassVar

from protocol.envelope import Envelope, open_envelope
from protocol.errors import LimitExceeded, RemoteProtocolError, WrongSigner
from protocol.identity import SIGNATURE_BYTES, KeyPair, PeerId, verify
from protocol.lease import ID_BYTES, Lease
from protocol.limits import RECORD_BYTES_MAX
from protocol.money import Nanos, Work
from protocol.record import (
    byte_string,
    decode_canonical,
    decode_fields,
    encode_canonical,
    encode_fields,
)

__all__ = ["CosignedReceipt", "Receipt", "cosign", "open_receipt"]

HASH_BYTES = 32
_COSIGN_DOMAIN = b"piecework/cosign/v1\0"

_BEFORE_ENVELOPE = b"\xa2\x68envelope"
_AFTER_ENVELOPE = b"\x70countersignature" + bytes((0x58, SIGNATURE_BYTES))
"""A co-signed receipt in canonical CBOR, but for its two byte strings."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Signed by the lease's payer key. Hashes are the rolling hashes of the two links."""

    DOMAIN: ClassVar[str] = "piecework/receipt/v1"

    lease_id: bytes
    sequence: int
    """1, 2, 3 … within the lease."""
    epoch: int
    """Of the session; `steps` and both links' hashes begin anew with each."""
    steps: int
    """Steps of this epoch; both links' hashes are taken after this many."""
    tokens: int
    """Rows that have entered the hop under the lease, those of a replay too."""
    work: Work
    amount_nanos: Nanos
    link_in_hash: bytes
    link_out_hash: bytes
    final: bool
    """The session is over; nothing follows."""

    def __post_init__(self) -> None:
        if len(self.lease_id) != ID_BYTES or self.sequence <= 0:
            raise RemoteProtocolError("A receipt names a lease and counts from 1.")
        if min(self.epoch, self.steps, self.tokens, self.amount_nanos) < 0:
            raise RemoteProtocolError("A receipt's counts are not negative.")
        if len(self.link_in_hash) != HASH_BYTES or len(self.link_out_hash) != HASH_BYTES:
            raise RemoteProtocolError("Link hashes have 32 bytes.")


@dataclass(frozen=True, slots=True)
class CosignedReceipt:
    """The payer's envelope as it came, and the hop's signature over it."""

    envelope: bytes
    countersignature: bytes

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    @classmethod
    def decode(cls, data: bytes) -> "CosignedReceipt":
        """Parse, but do not verify; raises RemoteProtocolError."""
        end = len(data) - SIGNATURE_BYTES
        middle = end - len(_AFTER_ENVELOPE)
        if (
            type(data) is bytes
            and len(data) <= RECORD_BYTES_MAX
            and data.startswith(_BEFORE_ENVELOPE)
            and data[max(0, middle) : end] == _AFTER_ENVELOPE
        ):
            envelope = byte_string(data, len(_BEFORE_ENVELOPE), middle)
            if envelope is not None:
                return cls(envelope, data[end:])
        # anything else is told what is wrong with it
        return decode_fields(cls, decode_canonical(data))

    def open(self, lease: Lease) -> Receipt:
        """Verify both signatures and the amount against the lease, then give the receipt."""
        self.verify_provider(lease.provider)
        return open_receipt(self.envelope, lease)

    def verify_provider(self, provider: PeerId) -> None:
        """Raise SignatureInvalid unless that hop has signed under this very receipt."""
        verify(provider.public_key, _COSIGN_DOMAIN + self.envelope, self.countersignature)


def open_receipt(data: bytes, lease: Lease) -> Receipt:
    """Verify a payer's receipt against its lease: signer, lease, and exact amount.

    Raises RemoteProtocolError, SignatureInvalid, WrongSigner or LimitExceeded.
    """
    envelope = Envelope.decode(data)
    receipt = open_envelope(Receipt, envelope, signer=PeerId(lease.payer_key))
    if receipt.lease_id != lease.lease_id:
        raise WrongSigner("The receipt names another lease.")
    expected = lease.amount_for(receipt.work)
    if receipt.amount_nanos != expected:
        raise LimitExceeded(
            f"The receipt says {receipt.amount_nanos} nanos; its work is worth {expected}."
        )
    return receipt


def cosign(envelope: bytes, key: KeyPair) -> CosignedReceipt:
    """The hop's own signature under a receipt it has verified."""
    return CosignedReceipt(envelope, key.sign(_COSIGN_DOMAIN + envelope))
