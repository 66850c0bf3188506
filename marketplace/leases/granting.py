"""Holding money for some hops of a session's route, and leasing them: for its quote and for each
replacement alike."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ledger import errors as ledger_errors
from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from ledger.lanes import open_lanes
from marketplace.errors import InsufficientFunds
from marketplace.keys import budgets
from marketplace.leases.models import SessionHoldRow, SessionRow
from marketplace.leases.repository import SessionRepository
from marketplace.leases.signing import LeasePlan, leases_of, settle_by
from marketplace.market import Market
from marketplace.quotes.terms import QuoteTerms, hold_nanos
from protocol.envelope import seal
from protocol.identity import PeerId
from protocol.lease import ID_BYTES
from protocol.money import Nanos

__all__ = ["Grant", "grant", "leave_headroom"]


@dataclass(frozen=True, slots=True)
class Grant:
    """What is held and leased at once. `hops`: those of the terms' route that are new."""

    epoch: int
    terms: QuoteTerms
    hops: Sequence[int]
    payer_key: bytes
    head: PeerId
    tokens_max: int
    digest: bytes
    """Of the request that asked for it."""

    @property
    def funded_rows(self) -> int:
        """Rows of the session that can come to pass under these leases."""
        return self.tokens_max - (self.terms.tokens_max - self.terms.funded_rows)


def grant(session: Session, market: Market, owner: SessionRow, wanted: Grant) -> SessionHoldRow:
    """Hold the most that the new hops can earn, and lease each of them, all or nothing.

    Raises InsufficientFunds; then the caller's transaction must be given up.
    """
    now_s = market.clock.now_s()
    hops = [wanted.terms.hops[index] for index in wanted.hops]
    row = SessionHoldRow(
        session_id=owner.session_id,
        epoch=wanted.epoch,
        request_digest=wanted.digest,
        hold_id=secrets.token_bytes(ID_BYTES),
        amount_nanos=hold_nanos(hops, wanted.terms.fee_basis_points),
        terms=wanted.terms.encode(),
        created_at_s=now_s,
        settle_by_s=settle_by(wanted.funded_rows, now_s),
        funded_rows=wanted.terms.funded_rows,
        drafted_rows=wanted.terms.drafted_tokens,
        headroom_nanos=max(wanted.terms.headroom_nanos(hops), 0),
    )
    plan = LeasePlan(
        session_id=owner.session_id,
        hold_id=row.hold_id,
        payer_key=wanted.payer_key,
        head=wanted.head,
        tokens_max=wanted.tokens_max,
        window_tokens=market.config.window_tokens,
        credit_windows=market.config.credit_windows,
        issued_at_s=now_s,
        settle_by_s=row.settle_by_s,
    )
    leases = [
        (seal(lease, market.key).encode(), lease)
        for lease in leases_of(wanted.terms, plan, wanted.hops)
    ]
    # from here on the buyer's account is locked: all that needs no database is done
    _hold(session, owner.account_id, row)
    SessionRepository(session).add_hold(row)
    budgets.reserve(
        session, owner.key_id or None, row.hold_id, row.amount_nanos,
        now_s=now_s, opens=wanted.epoch == 0,
    )  # fmt: skip
    if wanted.epoch == 0:
        leave_headroom(session, owner, row.amount_nanos)
    open_lanes(session, leases)
    return row


def leave_headroom(session: Session, owner: SessionRow, held_nanos: Nanos) -> None:
    """Raise InsufficientFunds where `held_nanos`, held just now, may leave an answer cut short.

    What this session and the buyer's others may still cost has to be there, unless no other holds
    anything: who is alone takes what there is. Called with the buyer's account locked, so that of
    two sessions that begin at once the second sees the first.
    """
    repository = SessionRepository(session)
    balance = Book(session).balance(AccountRef(AccountCode.BUYER_CASH, owner.account_id))
    own = sum(
        hold.amount_nanos
        for hold in repository.hold_states(owner.session_id)
        if hold.charged_nanos is None
    )
    if balance.debits_pending <= own:
        return
    headroom = repository.headroom_nanos(owner.account_id)
    if balance.available_nanos < headroom:
        spare = balance.available_nanos + held_nanos - headroom
        raise InsufficientFunds(held_nanos, max(spare, 0))


def _hold(session: Session, account_id: str, row: SessionHoldRow) -> None:
    try:
        Book(session).hold(
            row.hold_id,
            account_id,
            row.amount_nanos,
            now_s=row.created_at_s,
            expires_at_s=row.settle_by_s,
        )
    except ledger_errors.InsufficientFunds as error:
        raise InsufficientFunds(error.needed_nanos, error.available_nanos) from error
