"""Accepting a quote, ending a session, and what it has come to."""

import hashlib
import secrets

from ledger import errors as ledger_errors
from ledger.book import Book
from ledger.database import Session
from ledger.receipts import open_lane
from ledger.settle_window import mark_closed
from marketplace.errors import (
    Conflict,
    InsufficientFunds,
    QuoteExpired,
    QuoteUnknown,
    SessionUnknown,
)
from marketplace.fields import SpanSchema, WorkSchema
from marketplace.leases.models import SessionRow
from marketplace.leases.repository import HoldState, LaneView, SessionRepository
from marketplace.leases.schemas import (
    LeaseRequest,
    LeasesSchema,
    SessionHopSchema,
    SessionSchema,
    SessionStatus,
)
from marketplace.leases.signing import LeasePlan, leases_of, settle_by
from marketplace.market import Market
from marketplace.quotes.repository import QuoteRepository
from marketplace.quotes.terms import QuoteTerms
from protocol.envelope import seal
from protocol.lease import ID_BYTES

__all__ = ["close", "create", "show"]


def create(
    session: Session, market: Market, account_id: str, request: LeaseRequest
) -> LeasesSchema:
    """Hold the quote's amount and lease every hop, all or nothing; the same again, the same answer.

    Raises QuoteUnknown, QuoteExpired, Conflict or InsufficientFunds.
    """
    digest = _digest(account_id, request)
    known = SessionRepository(session).get(request.session_id)
    if known is not None:
        if known.request_digest != digest:
            raise Conflict("This session id was used before.", hint="Choose a new session id.")
        return _answer(session, known)
    terms = _accept_quote(session, market, account_id, request)
    row = _hold(session, market, account_id, request, terms, digest)
    plan = LeasePlan(
        session_id=request.session_id,
        hold_id=row.hold_id,
        payer_key=request.payer_key,
        head=request.head,
        window_tokens=market.config.window_tokens,
        credit_windows=market.config.credit_windows,
        issued_at_s=row.created_at_s,
    )
    for lease in leases_of(terms, plan):
        open_lane(session, seal(lease, market.key).encode(), lease)
    return _answer(session, row)


def close(session: Session, account_id: str, session_id: bytes, *, now_s: int) -> None:
    """The head says the session is over; again is no error. Raises SessionUnknown."""
    row = _own(session, account_id, session_id)
    if row.closed_at_s is None:
        row.closed_at_s = now_s
        mark_closed(session, row.hold_id)


def show(session: Session, account_id: str, session_id: bytes) -> SessionSchema:
    """What the session has come to. Raises SessionUnknown, also for another account's."""
    row = _own(session, account_id, session_id)
    repository = SessionRepository(session)
    hold, lanes = repository.hold(row.hold_id), repository.lanes(row.hold_id)
    charged = hold.charged_nanos or 0
    paid = sum(lane.settled_nanos for lane in lanes)
    return SessionSchema(
        session_id=session_id,
        status=_status(hold),
        charged_nanos=charged,
        fee_nanos=charged - paid if charged else 0,
        held_nanos=hold.amount_nanos if hold.charged_nanos is None else 0,
        hops=[_hop(lane) for lane in lanes],
    )


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
    for hop in terms.hops:
        offer = market.index.get(hop.provider, now_s)
        if (
            offer is None
            or offer.manifest_hash != terms.manifest_hash
            or offer.rates != hop.rates
            or not offer.span.contains(hop.span)
        ):
            raise QuoteExpired(f"{hop.provider} no longer offers layers {hop.span} at its rates.")
    return terms


def _hold(
    session: Session,
    market: Market,
    account_id: str,
    request: LeaseRequest,
    terms: QuoteTerms,
    digest: bytes,
) -> SessionRow:
    now_s = market.clock.now_s()
    settle_by_s = settle_by(terms, now_s)
    hold_id = secrets.token_bytes(ID_BYTES)
    try:
        Book(session).hold(
            hold_id, account_id, terms.amount_nanos_max, now_s=now_s, expires_at_s=settle_by_s
        )
    except ledger_errors.InsufficientFunds as error:
        raise InsufficientFunds(error.needed_nanos, error.available_nanos) from error
    row = SessionRow(
        session_id=request.session_id,
        account_id=account_id,
        quote_id=request.quote_id,
        request_digest=digest,
        hold_id=hold_id,
        amount_nanos=terms.amount_nanos_max,
        created_at_s=now_s,
        settle_by_s=settle_by_s,
    )
    SessionRepository(session).add(row)
    return row


def _answer(session: Session, row: SessionRow) -> LeasesSchema:
    lanes = SessionRepository(session).lanes(row.hold_id)
    return LeasesSchema(
        hold_id=row.hold_id,
        amount_nanos=row.amount_nanos,
        leases=[lane.envelope for lane in lanes],
        settle_by_s=row.settle_by_s,
    )


def _own(session: Session, account_id: str, session_id: bytes) -> SessionRow:
    row = SessionRepository(session).get(session_id)
    if row is None or row.account_id != account_id:
        raise SessionUnknown("There is no such session.")
    return row


def _status(hold: HoldState) -> SessionStatus:
    if hold.charged_nanos is None:
        return SessionStatus.CLOSED if hold.closed else SessionStatus.OPEN
    return SessionStatus.SETTLED if hold.charged_nanos else SessionStatus.RELEASED


def _hop(lane: LaneView) -> SessionHopSchema:
    return SessionHopSchema(
        peer_id=lane.lease.provider,
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
