"""Other hops for a session whose hops were lost, under the same session and a later epoch.

Who is still there keeps the lease he has: what had not arrived is not counted, so his limits still
suffice. Only the new hops are leased, and the most they can earn is held in addition. A lost hop is
paid what its receipts cover, like every other. Each round has a hold of its own, which settles by
itself, so the ledger need not know that sessions are repaired.
"""

import hashlib

from ledger.database import Session
from marketplace.errors import Conflict, Malformed, PriceTooHigh
from marketplace.leases import service
from marketplace.leases.granting import Grant, grant
from marketplace.leases.models import SessionHoldRow, SessionRow
from marketplace.leases.repository import SessionRepository
from marketplace.leases.rerouting import NewRoute, Present, reroute
from marketplace.leases.schemas import (
    ReplacementLeaseSchema,
    ReplacementRequest,
    ReplacementSchema,
)
from marketplace.market import Market
from marketplace.quotes.schemas import QuotedHopSchema
from marketplace.quotes.terms import QuoteTerms
from protocol.record import encode_canonical

__all__ = ["REPLACEMENTS_MAX", "find", "lease"]

REPLACEMENTS_MAX = 16
"""Rounds of one session: twice what a head tries for one answer. Each holds more of the buyer's
money, and makes work for everybody."""


def find(
    session: Session,
    market: Market,
    account_id: str,
    session_id: bytes,
    request: ReplacementRequest,
) -> NewRoute | None:
    """The cheapest route without those lost; None if this request was answered before. Reads only.

    Raises SessionUnknown, Conflict, Malformed, ResaleForbidden, NoCapacity or PriceTooHigh.
    """
    row = service.own(session, account_id, session_id)
    if _answered(session, row, request) is not None:
        return None
    route = reroute(session, market, _present(session, market, row, request), request)
    limit = request.amount_nanos_max
    if limit is not None and route.amount_nanos > limit:
        raise PriceTooHigh(route.amount_nanos, limit)
    return route


def lease(
    session: Session,
    market: Market,
    account_id: str,
    session_id: bytes,
    request: ReplacementRequest,
    route: NewRoute | None,
) -> ReplacementSchema:
    """Hold the price of the new hops and lease them; the same request again, the same answer.

    `route`: what `find` gave for this request. Raises SessionUnknown, Conflict, Malformed or
    InsufficientFunds; then nothing was held.
    """
    row = service.own(session, account_id, session_id, lock=True)
    known = _answered(session, row, request)
    if known is None:
        present = _present(session, market, row, request)
        if route is None or route.after_epoch != present.epoch:
            raise Conflict("Another replacement was first.", hint="Send it again.")
        # every lease of a session names the same head and payer key
        common = SessionRepository(session).lanes(session_id)[0].lease
        wanted = Grant(
            epoch=request.epoch,
            terms=route.terms,
            hops=route.hops,
            payer_key=common.payer_key,
            head=common.head,
            tokens_max=present.first.tokens_max,
            digest=_digest(session_id, request),
        )
        known = grant(session, market, row, wanted)
    return _answer(session, known)


def _answered(
    session: Session, row: SessionRow, request: ReplacementRequest
) -> SessionHoldRow | None:
    """What this very request was answered with before."""
    holds = SessionRepository(session).holds(row.session_id)
    known = next((hold for hold in holds if hold.epoch == request.epoch), None)
    if known is not None and known.request_digest != _digest(row.session_id, request):
        raise Conflict(
            f"Epoch {request.epoch} of this session was used for another replacement.",
            hint="Choose a later epoch.",
        )
    return known


def _present(
    session: Session, market: Market, row: SessionRow, request: ReplacementRequest
) -> Present:
    """The session as it is. Raises Conflict or Malformed unless the request fits it."""
    holds = SessionRepository(session).holds(row.session_id)
    first, last = holds[0], holds[-1]
    if row.closed_at_s is not None:
        raise Conflict("The session is closed.", hint="Open a new one.")
    if max(hold.settle_by_s for hold in holds) < market.clock.now_s():
        raise Conflict("The session's time for receipts is over.", hint="Open a new one.")
    if first.terms is None or last.terms is None:
        raise Conflict("The session is older than replacements.", hint="Open a new one.")
    if request.epoch <= last.epoch:
        raise Conflict(f"The session is at epoch {last.epoch}.", hint="Choose a later epoch.")
    if len(holds) > REPLACEMENTS_MAX:
        raise Conflict(
            f"The session's hops were replaced {REPLACEMENTS_MAX} times.", hint="Open a new one."
        )
    present = Present(last.epoch, QuoteTerms.decode(first.terms), QuoteTerms.decode(last.terms))
    _check_fits(present, request)
    return present


def _check_fits(present: Present, request: ReplacementRequest) -> None:
    hops, last = len(present.terms.hops), max(request.lost)
    if last >= hops:
        raise Malformed(f"lost: the session's route has {hops} hops, and none is {last}.")
    tokens, tokens_max = request.rows + request.remaining_tokens, present.first.tokens_max
    if tokens > tokens_max:
        raise Malformed(
            f"{tokens} tokens are above the {tokens_max} that the session was opened for.",
            hint="Open a new session for more.",
        )


def _answer(session: Session, row: SessionHoldRow) -> ReplacementSchema:
    assert row.terms is not None
    lanes = SessionRepository(session).lanes(row.session_id)
    return ReplacementSchema(
        epoch=row.epoch,
        hold_id=row.hold_id,
        amount_nanos=row.amount_nanos,
        hops=[QuotedHopSchema.of(hop) for hop in QuoteTerms.decode(row.terms).hops],
        leases=[
            ReplacementLeaseSchema(hop_index=lane.lease.hop_index, lease=lane.envelope)
            for lane in lanes
            if lane.epoch == row.epoch
        ],
        settle_by_s=row.settle_by_s,
    )


def _digest(session_id: bytes, request: ReplacementRequest) -> bytes:
    asked = [
        session_id,
        request.epoch,
        sorted(request.lost),
        request.rows,
        request.remaining_tokens,
        sorted(map(str, request.deny)),
        None if request.allow is None else sorted(map(str, request.allow)),
        request.amount_nanos_max,
        request.funded_tokens,
        request.drafted_tokens,
    ]
    return hashlib.sha256(encode_canonical(asked)).digest()
