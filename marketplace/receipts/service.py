"""The marketplace's signature under what became of a batch."""

import hashlib
from collections.abc import Sequence

from ledger.receipts import ReceiptOutcome
from protocol.acknowledgement import (
    REASON_CHARACTERS_MAX,
    Acknowledgement,
    ReceiptResult,
    SignedResults,
    results_digest,
)
from protocol.envelope import seal
from protocol.identity import KeyPair, PeerId

__all__ = ["sign_outcomes"]


def sign_outcomes(
    key: KeyPair,
    batch: Sequence[bytes],
    outcomes: Sequence[ReceiptOutcome],
    *,
    provider: PeerId,
    now_s: int,
) -> SignedResults:
    """Results of a provider's batch in its order, bound to the very bytes it handed in.

    Call it only after the commit that made them true.
    """
    results = tuple(
        ReceiptResult(
            hashlib.sha256(encoded).digest(),
            outcome.status.value,
            outcome.reason[:REASON_CHARACTERS_MAX],
            outcome.leaf_index,
        )
        for encoded, outcome in zip(batch, outcomes, strict=True)
    )
    record = Acknowledgement(provider, results_digest(results), len(results), now_s)
    return SignedResults(results, seal(record, key).encode())
