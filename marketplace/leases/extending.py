"""Paying for more of an answer while it runs: more is held, and the same leases say more.

A request names totals, not steps: so many of the answer's tokens shall be paid for at every hop of
the present route. The same again therefore changes nothing and gives the same leases, and one that
is asked after a repair brings every hop to the same mark, whatever its lease said before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ledger import errors as ledger_errors
from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book, clearing_of
from ledger.database import Session
from ledger.lanes import extend_lane
from marketplace.errors import Conflict, InsufficientFunds, Malformed
from marketplace.keys import budgets
from marketplace.leases import service
from marketplace.leases.granting import leave_headroom
from marketplace.leases.models import SessionHoldRow
from marketplace.leases.repository import LaneView, SessionRepository
from marketplace.leases.schemas import (
    ExtensionRequest,
    ExtensionSchema,
    ReplacementLeaseSchema,
)
from marketplace.leases.signing import settle_by
from marketplace.market import Market
from marketplace.quotes.terms import QuoteTerms, more_work
from protocol.envelope import seal
from protocol.lease import Lease
from protocol.money import Nanos, amount_nanos, with_fee_nanos

__all__ = ["extend"]


def extend(
    session: Session,
    market: Market,
    account_id: str,
    session_id: bytes,
    request: ExtensionRequest,
) -> ExtensionSchema:
    """Hold for `funded_tokens` of the answer in all, and raise every present hop's lease to that.

    Raises SessionUnknown, Conflict, Malformed or InsufficientFunds; then nothing was held.
    """
    row = service.own(session, account_id, session_id, lock=True)
    repository = SessionRepository(session)
    holds = repository.holds(session_id)
    if row.closed_at_s is not None:
        raise Conflict("The session is closed.", hint="Open a new one.")
    if max(hold.settle_by_s for hold in holds) < market.clock.now_s():
        raise Conflict("The session's time for receipts is over.", hint="Open a new one.")
    wanted = _wanted(holds, request)
    lanes = repository.lanes(session_id)
    present = _present(holds, lanes)
    _lock(session, account_id, holds)
    held_nanos = 0
    for hold in holds:
        under = [lane for lane in lanes if lane.epoch == hold.epoch]
        growing = [lane for lane in present.values() if lane.epoch == hold.epoch]
        if growing:
            held_nanos += _extend_hold(session, market, hold, under, growing, wanted)
            budgets.reserve(
                session, row.key_id or None, hold.hold_id, hold.amount_nanos,
                now_s=market.clock.now_s(),
            )  # fmt: skip
    session.flush()
    if held_nanos:
        leave_headroom(session, row, held_nanos)
    return _answer(repository, session_id, request)


def _lock(session: Session, account_id: str, holds: Sequence[SessionHoldRow]) -> None:
    """Every hold, then every account, in the order of all: grown one hold after the other, those of
    a repaired session would be asked for in another."""
    if len(holds) == 1:
        return  # then its own growing asks in that order
    book = Book(session)
    for hold in holds:
        book.parts(hold.hold_id)
    accounts = [clearing_of(hold.hold_id) for hold in holds]
    book.lock([AccountRef(AccountCode.BUYER_CASH, account_id), *accounts])


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Rows of the session, and rows in vain, that to be paid for; `rows_max`: all it can have."""

    rows: int
    drafted_rows: int
    rows_max: int


def _wanted(holds: Sequence[SessionHoldRow], request: ExtensionRequest) -> _Wanted:
    first = holds[0]
    if first.terms is None or any(hold.funded_rows is None for hold in holds):
        raise Conflict("The session is older than instalments.", hint="It is paid for whole.")
    terms = QuoteTerms.decode(first.terms)
    rows = terms.prompt_tokens + request.funded_tokens
    if rows > terms.tokens_max:
        raise Malformed(
            f"{request.funded_tokens} tokens are above the {terms.max_tokens} that the session "
            "was opened for.",
            hint="Open a new session for more.",
        )
    return _Wanted(rows, request.drafted_tokens, terms.tokens_max)


def _present(holds: Sequence[SessionHoldRow], lanes: Sequence[LaneView]) -> dict[int, LaneView]:
    """The lane of each hop of the route as it is now: the latest that stands in its place."""
    last = holds[-1]
    assert last.terms is not None
    hop_count = len(QuoteTerms.decode(last.terms).hops)
    # lanes come by epoch, so the latest one stays
    return {lane.lease.hop_index: lane for lane in lanes if lane.lease.hop_index < hop_count}


def _extend_hold(
    session: Session,
    market: Market,
    hold: SessionHoldRow,
    under: Sequence[LaneView],
    growing: Sequence[LaneView],
    wanted: _Wanted,
) -> Nanos:
    """Raise the leases of `growing`, some of those `under` one hold, and hold their price: how much
    more that is."""
    assert hold.funded_rows is not None
    assert hold.drafted_rows is not None
    funded_rows = max(wanted.rows, hold.funded_rows)
    drafted_rows = max(wanted.drafted_rows, hold.drafted_rows)
    rows = funded_rows - hold.funded_rows + drafted_rows - hold.drafted_rows
    if rows == 0:
        return 0
    now_s = market.clock.now_s()
    settle_by_s = max(hold.settle_by_s, settle_by(rows, now_s))
    leases = [_grown(lane.lease, rows, settle_by_s) for lane in growing]
    amount = _price(under, leases)
    more_nanos = max(amount - hold.amount_nanos, 0)
    if more_nanos:
        _hold_more(session, hold, more_nanos, now_s=now_s, expires_at_s=settle_by_s)
    for lease in leases:
        extend_lane(session, seal(lease, market.key).encode(), lease)
    whole = [_grown(lease, wanted.rows_max - funded_rows, 0) for lease in leases]
    hold.headroom_nanos = max(_price(under, whole) - amount, 0)
    hold.funded_rows, hold.drafted_rows = funded_rows, drafted_rows
    hold.amount_nanos += more_nanos
    hold.settle_by_s = settle_by_s
    return more_nanos


def _hold_more(
    session: Session, hold: SessionHoldRow, nanos: Nanos, *, now_s: int, expires_at_s: int
) -> None:
    book = Book(session)
    try:
        # the session is locked, so nobody else takes the part's number
        book.grow_hold(
            hold.hold_id, book.parts(hold.hold_id), nanos, now_s=now_s, expires_at_s=expires_at_s
        )
    except ledger_errors.InsufficientFunds as error:
        raise InsufficientFunds(error.needed_nanos, error.available_nanos) from error


def _price(under: Sequence[LaneView], changed: Sequence[Lease]) -> Nanos:
    """What all leases of a hold can come to with the fee, some of them `changed`."""
    amounts = {lane.lease.lease_id: lane.lease.amount_nanos_max for lane in under}
    amounts |= {lease.lease_id: lease.amount_nanos_max for lease in changed}
    return with_fee_nanos(sum(amounts.values()), changed[0].fee_basis_points)


def _grown(lease: Lease, rows: int, settle_by_s: int) -> Lease:
    """The lease with room for so many rows more, each decoded once."""
    row_bytes = lease.wire_dtype.row_bytes(lease.hidden_size)
    work_max = lease.work_max + more_work(lease.span, rows, row_bytes)
    return replace(
        lease,
        work_max=work_max,
        amount_nanos_max=amount_nanos(work_max, lease.rates),
        settle_by_s=max(lease.settle_by_s, settle_by_s),
    )


def _answer(
    repository: SessionRepository, session_id: bytes, request: ExtensionRequest
) -> ExtensionSchema:
    holds = repository.holds(session_id)
    present = _present(holds, repository.lanes(session_id))
    return ExtensionSchema(
        epoch=holds[-1].epoch,
        funded_tokens=request.funded_tokens,
        amount_nanos=sum(hold.amount_nanos for hold in holds),
        leases=[
            ReplacementLeaseSchema(hop_index=index, lease=lane.envelope)
            for index, lane in sorted(present.items())
        ],
        settle_by_s=max(hold.settle_by_s for hold in holds),
    )
