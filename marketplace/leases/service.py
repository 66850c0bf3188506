"""Accepting a quote, ending a session, and what it has come to."""

import hashlib
from collections.abc import Sequence

from ledger.database import Session
from ledger.settle_window import mark_closed
from marketplace.errors import Conflict, QuoteExpired, QuoteUnknown, SessionUnknown
from marketplace.fields import SpanSchema, WorkSchema
from marketplace.keys import budgets, pace
from marketplace.leases.granting import Grant, grant
from marketplace.leases.models import SessionHoldRow, SessionRow
from marketplace.leases.repository import HoldState, LaneView, SessionRepository
from marketplace.leases.schemas import (
    LeaseRequest,
    LeasesSchema,
    SessionHopSchema,
    SessionSchema,
    SessionStatus,
)
from marketplace.market import Market
from marketplace.offers.service import follow
from marketplace.quotes.repository import QuoteRepository
from marketplace.quotes.terms import QuotedHop, QuoteTerms

__all__ = ["close", "create", "own", "show"]


def create(
    session: Session, market: Market, account_id: str, request: LeaseRequest, *, key_id: str
) -> LeasesSchema:
    """Hold the quote's amount and lease every hop, all or nothing; the same again, the same answer.

    Raises QuoteUnknown, QuoteExpired, Conflict, InsufficientFunds, or for the key's own limits
    KeyBudgetSpent, KeyBusy or TooManyAttempts; then nothing was held.
    """
    digest = _digest(account_id, request)
    repository = SessionRepository(session)
    known = repository.holds(request.session_id)
    if known:
        if known[0].request_digest != digest:
            raise Conflict("This session id was used before.", hint="Choose a new session id.")
        return _answer(session, known[0])
    terms = _accept_quote(session, market, account_id, request)
    pace.count(session, key_id or None, now_s=market.clock.now_s())
    row = SessionRow(
        session_id=request.session_id,
        account_id=account_id,
        quote_id=request.quote_id,
        created_at_s=market.clock.now_s(),
        key_id=key_id,
        model=terms.model,
        layers=terms.layers,
    )
    repository.add(row)
    wanted = Grant(
        epoch=0,
        terms=terms,
        hops=range(len(terms.hops)),
        payer_key=request.payer_key,
        head=request.head,
        tokens_max=terms.tokens_max,
        digest=digest,
    )
    return _answer(session, grant(session, market, row, wanted))


def close(session: Session, account_id: str, session_id: bytes, *, now_s: int) -> None:
    """The head says the session is over; again is no error. Raises SessionUnknown."""
    row = own(session, account_id, session_id, lock=True)
    if row.closed_at_s is None:
        row.closed_at_s = now_s
        hold_ids = [hold.hold_id for hold in SessionRepository(session).holds(session_id)]
        for hold_id in hold_ids:
            mark_closed(session, hold_id)
        budgets.finish(session, hold_ids)


def show(session: Session, account_id: str, session_id: bytes) -> SessionSchema:
    """What the session has come to. Raises SessionUnknown, also for another account's."""
    own(session, account_id, session_id)
    repository = SessionRepository(session)
    holds, lanes = repository.hold_states(session_id), repository.lanes(session_id)
    charged = sum(hold.charged_nanos or 0 for hold in holds)
    paid = sum(lane.settled_nanos for lane in lanes)
    return SessionSchema(
        session_id=session_id,
        status=_status(holds),
        charged_nanos=charged,
        # nothing of a lane is settled before its hold is charged
        fee_nanos=charged - paid,
        held_nanos=sum(hold.amount_nanos for hold in holds if hold.charged_nanos is None),
        hops=[_hop(lane) for lane in lanes],
    )


def own(session: Session, account_id: str, session_id: bytes, *, lock: bool = False) -> SessionRow:
    """The account's own session. Raises SessionUnknown, also for another account's."""
    row = SessionRepository(session).get(session_id, lock=lock)
    if row is None or row.account_id != account_id:
        raise SessionUnknown("There is no such session.")
    return row


def _accept_quote(
    session: Session, market: Market, account_id: str, request: LeaseRequest
) -> QuoteTerms:
    """Claim the quote for this session, and check that its offers still stand."""
    repository = QuoteRepository(session)
    quote = repository.get(request.quote_id)
    if quote is None or quote.account_id != account_id:
        raise QuoteUnknown("There is no such quote.", hint="Ask for a new one.")
    now_s = market.clock.now_s()
    if quote.session_id is None and quote.expires_at_s <= now_s:
        raise QuoteExpired(f"The quote expired {now_s - quote.expires_at_s} s ago.")
    if not repository.accept(request.quote_id, request.session_id):
        raise Conflict("The quote was accepted for another session.", hint="Ask for a new one.")
    terms = QuoteTerms.decode(quote.terms)
    gone = _no_longer_offered(market, terms, now_s)
    if gone is not None:
        # the quote may rest on what another process of the marketplace has taken
        follow(session, market.index, now_s=now_s)
        gone = _no_longer_offered(market, terms, now_s)
    if gone is not None:
        raise QuoteExpired(f"{gone.provider} no longer offers layers {gone.span} at its rates.")
    return terms


def _no_longer_offered(market: Market, terms: QuoteTerms, now_s: int) -> QuotedHop | None:
    """The first hop whose offer does not stand any more."""
    for hop in terms.hops:
        offer = market.index.get(hop.provider, now_s)
        if (
            offer is None
            or offer.manifest_hash != terms.manifest_hash
            or offer.rates != hop.rates
            or not offer.span.contains(hop.span)
        ):
            return hop
    return None


def _answer(session: Session, row: SessionHoldRow) -> LeasesSchema:
    lanes = SessionRepository(session).lanes(row.session_id)
    return LeasesSchema(
        hold_id=row.hold_id,
        amount_nanos=row.amount_nanos,
        leases=[lane.envelope for lane in lanes if lane.epoch == row.epoch],
        settle_by_s=row.settle_by_s,
    )


def _status(holds: Sequence[HoldState]) -> SessionStatus:
    waiting = [hold for hold in holds if hold.charged_nanos is None]
    if waiting:
        closed = all(hold.closed for hold in waiting)
        return SessionStatus.CLOSED if closed else SessionStatus.OPEN
    charged = any(hold.charged_nanos for hold in holds)
    return SessionStatus.SETTLED if charged else SessionStatus.RELEASED


def _hop(lane: LaneView) -> SessionHopSchema:
    return SessionHopSchema(
        peer_id=lane.lease.provider,
        epoch=lane.epoch,
        hop_index=lane.lease.hop_index,
        span=SpanSchema.of(lane.lease.span),
        lease_id=lane.lease.lease_id,
        earned_nanos=lane.received_nanos,
        work=WorkSchema.of(lane.work),
        receipt=lane.receipt,
        leaf_index=lane.leaf_index,
    )


def _digest(account_id: str, request: LeaseRequest) -> bytes:
    # every part has a fixed length, so the joined bytes are unambiguous
    parts = (
        bytes.fromhex(account_id),
        request.quote_id,
        request.session_id,
        request.payer_key,
        request.head.public_key,
    )
    return hashlib.sha256(b"".join(parts)).digest()
