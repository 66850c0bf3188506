"""Acknowledgement: what the marketplace made of a batch of receipts, under its own signature.

A provider keeps it. Where a receipt was refused, the refusal and its reason are signed; where one
was taken, so is its place in the log: a marketplace that later knows nothing of it is contradicted
by its own hand. The results themselves travel beside the record, which signs a digest of them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from protocol.envelope import open_envelope
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields

__all__ = [
    "REASON_CHARACTERS_MAX",
    "REJECTED",
    "RESULTS_MAX",
    "SIGNED_RESULTS_BYTES_MAX",
    "Acknowledgement",
    "ReceiptResult",
    "SignedResults",
    "open_acknowledgement",
    "results_digest",
]

RESULTS_MAX = 1000
"""Receipts of one batch."""
REASON_CHARACTERS_MAX = 500
"""A sentence; longer ones are cut before they are signed."""
SIGNED_RESULTS_BYTES_MAX = 1024 * 1024
"""A thousand refusals with the longest reasons are about 600 KiB."""
_DIGEST_BYTES = 32


REJECTED = "rejected"
"""The one status that is no acknowledgement."""


@dataclass(frozen=True, slots=True)
class ReceiptResult:
    """What became of one receipt. `status`: accepted, duplicate, superseded or rejected."""

    receipt_sha256: bytes
    """Of the co-signed receipt as it was handed in."""
    status: str
    reason: str = ""
    leaf_index: int | None = None
    """Its place in the public log, where it has one."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Signed by the marketplace: these were the results of one batch, in its order."""

    DOMAIN: ClassVar[str] = "piecework/acknowledgement/v1"

    provider: PeerId
    """Who handed the batch in."""
    results_sha256: bytes
    count: int
    at_s: int
    """Unix seconds of the marketplace's clock."""

    def __post_init__(self) -> None:
        if len(self.results_sha256) != _DIGEST_BYTES:
            raise RemoteProtocolError("A digest has 32 bytes.")
        if not 0 < self.count <= RESULTS_MAX:
            raise RemoteProtocolError(f"A batch has 1 to {RESULTS_MAX} receipts.")


@dataclass(frozen=True, slots=True)
class SignedResults:
    """A marketplace's whole answer to a batch: what a provider keeps."""

    results: tuple[ReceiptResult, ...]
    """One a receipt, in the batch's order."""
    envelope: bytes
    """Of the Acknowledgement; empty where none came."""

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    @classmethod
    def decode(cls, data: bytes) -> "SignedResults":
        """Parse, but do not verify; raises RemoteProtocolError."""
        return decode_fields(cls, decode_canonical(data, size_max=SIGNED_RESULTS_BYTES_MAX))

    def verify(self, *, market: PeerId, provider: PeerId) -> Acknowledgement:
        """What was signed, if these are the results; see `open_acknowledgement`."""
        return open_acknowledgement(self.envelope, self.results, market=market, provider=provider)


def results_digest(results: Sequence[ReceiptResult]) -> bytes:
    """SHA-256 over the canonical encoding of all results, in the batch's order."""
    return hashlib.sha256(encode_canonical([encode_fields(each) for each in results])).digest()


def open_acknowledgement(
    envelope: bytes, results: Sequence[ReceiptResult], *, market: PeerId, provider: PeerId
) -> Acknowledgement:
    """Verify that the marketplace has signed these very results for this provider.

    Raises RemoteProtocolError, SignatureInvalid or WrongSigner.
    """
    acknowledgement = open_envelope(Acknowledgement, envelope, signer=market)
    if acknowledgement.provider != provider:
        raise RemoteProtocolError("The acknowledgement is another provider's.")
    if acknowledgement.count != len(results) or acknowledgement.results_sha256 != results_digest(
        results
    ):
        raise RemoteProtocolError("The acknowledgement was signed for other results.")
    return acknowledgement
