"""The leases of a route: one for each hop, naming its neighbours. Pure."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from marketplace.quotes.terms import QuoteTerms
from protocol.identity import PeerId
from protocol.lease import ID_BYTES, Lease

__all__ = ["OPEN_WITHIN_S", "LeasePlan", "leases_of", "settle_by"]

OPEN_WITHIN_S = 60
"""A session is opened in seconds, or not at all: a lease lying about is a claim on KV."""
SETTLE_GRACE_S = 600
"""For receipts to come in after the last token, over a home link that was down for a while."""
TOKEN_S = 1
"""Nobody waits for a session that is slower than a token a second."""


@dataclass(frozen=True, slots=True)
class LeasePlan:
    """What the leases of one hold have in common beyond the route's terms."""

    session_id: bytes
    hold_id: bytes
    payer_key: bytes
    head: PeerId
    tokens_max: int
    """Rows of the session at each hop: those of its quote, also for who comes later."""
    window_tokens: int
    credit_windows: int
    issued_at_s: int
    settle_by_s: int


def settle_by(tokens: int, issued_at_s: int) -> int:
    """Until when receipts for so many tokens are taken, in unix seconds."""
    return issued_at_s + SETTLE_GRACE_S + tokens * TOKEN_S


def leases_of(terms: QuoteTerms, plan: LeasePlan, hops: Sequence[int]) -> list[Lease]:
    """Leases for the hops with these indexes, in their order.

    The ring goes from the head through every hop of the route and back, so each lease names the
    neighbours that its hop has now.
    """
    ring = [plan.head, *(hop.provider for hop in terms.hops), plan.head]
    return [
        Lease(
            lease_id=secrets.token_bytes(ID_BYTES),
            session_id=plan.session_id,
            hold_id=plan.hold_id,
            hop_index=index,
            hop_count=len(terms.hops),
            payer_key=plan.payer_key,
            provider=terms.hops[index].provider,
            head=plan.head,
            previous=ring[index],
            next=ring[index + 2],
            manifest_hash=terms.manifest_hash,
            span=terms.hops[index].span,
            hidden_size=terms.hidden_size,
            wire_dtype=terms.wire_dtype,
            rates=terms.hops[index].rates,
            work_max=terms.hops[index].work_max,
            amount_nanos_max=terms.hops[index].amount_nanos_max,
            tokens_max=plan.tokens_max,
            window_tokens=plan.window_tokens,
            credit_windows=plan.credit_windows,
            fee_basis_points=terms.fee_basis_points,
            issued_at_s=plan.issued_at_s,
            expires_at_s=plan.issued_at_s + OPEN_WITHIN_S,
            settle_by_s=plan.settle_by_s,
        )
        for index in hops
    ]
