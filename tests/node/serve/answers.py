"""What a marketplace answers to a batch of receipts, signed."""

import hashlib

from protocol.acknowledgement import (
    Acknowledgement,
    ReceiptResult,
    SignedResults,
    results_digest,
)
from protocol.envelope import seal
from tests.protocol.samples import MARKET, NOW_S, PROVIDER

__all__ = ["signed_results"]


def signed_results(batch, status="accepted", reason="", *, market=MARKET, provider=PROVIDER):
    """The same result for every receipt of a batch."""
    results = tuple(
        ReceiptResult(hashlib.sha256(receipt).digest(), status, reason, None) for receipt in batch
    )
    record = Acknowledgement(provider.peer_id, results_digest(results), len(results), NOW_S)
    return SignedResults(results, seal(record, market).encode())
