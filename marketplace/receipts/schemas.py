"""JSON of `receipts`."""

from typing import Annotated

from pydantic import Field

from ledger.receipts import RECEIPTS_PER_BATCH_MAX
from marketplace.fields import Base64Bytes, Schema

__all__ = ["ReceiptBatch", "ReceiptResult", "ReceiptResults"]


class ReceiptBatch(Schema):
    """Encoded co-signed receipts of one provider."""

    receipts: Annotated[list[Base64Bytes], Field(min_length=1, max_length=RECEIPTS_PER_BATCH_MAX)]


class ReceiptResult(Schema):
    """What became of one receipt: accepted, duplicate, superseded, or rejected with the reason."""

    lease_id: str
    """Hex; empty where the bytes did not even name a lease."""
    status: str
    reason: str
    leaf_index: int | None


class ReceiptResults(Schema):
    """One result each, in the batch's order, and the marketplace's signature over all of them."""

    results: list[ReceiptResult]
    acknowledgement: Base64Bytes
    """Envelope of a `protocol.acknowledgement.Acknowledgement`: to be kept."""
