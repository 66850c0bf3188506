"""The states of a payout and the only ways between them.

    draft ──▶ reserved ──▶ submitting ──▶ submitted ──▶ paid
                │  ▲           │              │          │
                │  └── held ◀──┤              ▼          │
                ▼       │      ▼           failed ──▶ reversed
             canceled ◀─┘    failed

A payout is a draft only inside the transaction that reserves its money. From `reserved` to the end
of `submitting` the money stands in PROVIDER_IN_TRANSIT; `submitted` means that the processor has
the transfer, and that its id is known here. `failed` is either a refusal (no transfer id; the money
is payable again) or a bank that sent the money back to the provider's account at the processor
(with a transfer id; nothing moves here). `held` waits for an operator, or for a freeze to end.
"""

from collections.abc import Mapping
from enum import StrEnum

from marketplace.payouts.errors import PayoutStateInvalid

__all__ = ["IN_TRANSIT", "OPEN", "SENT", "TRANSITIONS", "PayoutState", "require_step"]


class PayoutState(StrEnum):
    """Where a payout stands."""

    DRAFT = "draft"
    RESERVED = "reserved"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    PAID = "paid"
    FAILED = "failed"
    REVERSED = "reversed"
    HELD = "held"
    CANCELED = "canceled"


_S = PayoutState

TRANSITIONS: Mapping[PayoutState, frozenset[PayoutState]] = {
    _S.DRAFT: frozenset({_S.RESERVED}),
    _S.RESERVED: frozenset({_S.SUBMITTING, _S.HELD, _S.CANCELED}),
    _S.SUBMITTING: frozenset({_S.SUBMITTED, _S.FAILED, _S.HELD}),
    # the bank's word may change: what failed is paid later, what was paid comes back
    _S.SUBMITTED: frozenset({_S.PAID, _S.FAILED, _S.REVERSED}),
    _S.PAID: frozenset({_S.FAILED, _S.REVERSED}),
    _S.FAILED: frozenset({_S.PAID, _S.REVERSED}),
    _S.HELD: frozenset({_S.RESERVED, _S.SUBMITTING, _S.CANCELED}),
    _S.REVERSED: frozenset(),
    _S.CANCELED: frozenset(),
}

IN_TRANSIT = frozenset({_S.RESERVED, _S.SUBMITTING, _S.HELD})
"""States in which the payout's amount stands in PROVIDER_IN_TRANSIT."""

OPEN = IN_TRANSIT | {_S.DRAFT}
"""An account has at most one payout in these, held so by the database."""

SENT = frozenset({_S.SUBMITTED, _S.PAID})
"""The processor has the money's transfer and nothing came back."""


def require_step(source: PayoutState, target: PayoutState) -> None:
    """Raise PayoutStateInvalid unless a payout may go from `source` to `target`."""
    if target not in TRANSITIONS[source]:
        raise PayoutStateInvalid(source.value, target.value)
