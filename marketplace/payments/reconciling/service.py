"""The daily comparison: every change of our balance at the processor against the book, both ways.

A run walks what is new there, and again what was not free yet; posts what only the processor knows
(its fees, money that has become available, the operator's own moves); then compares. Findings stay
until both sides agree. I13: the book's two processor accounts are what the processor holds for us,
but for what is on its way and has not been told of yet.
"""

import logging

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from ledger.failpoint import reach
from marketplace.market import Market
from marketplace.payments.processor import NANOS_PER_CENT
from marketplace.payments.reconciling.matching import book_codes, expected, postings
from marketplace.payments.reconciling.models import ReconciliationRow, TransactionRow
from marketplace.payments.reconciling.repository import ReconcilingRepository
from marketplace.payments.records import ProcessorTransaction
from protocol.money import Nanos

__all__ = ["BALANCE", "in_book_nanos", "reconcile", "reconcile_daily"]

log = logging.getLogger(__name__)

OVERLAP_S = 3600
"""Walked again: what was made within the processor's same second, or told late."""
DAILY_S = 24 * 3600
BATCH = 200
"""Transactions posted in one database transaction."""
UNTOLD_MAX = 10_000
FINDINGS_MAX = 10_000
GRACE_S = 24 * 3600
"""How long the processor may take to tell of what is in the book: a payout or refund under way."""
BALANCE = "balance"
"""The finding that the sums differ."""


def reconcile(market: Market) -> int:
    """One run; gives how many findings are open after it. Safe to stop anywhere and run again."""
    if market.processor.name == "test":
        return 0  # it holds no money, so there is nothing to compare
    started_at_s = market.clock.now_s()
    with market.database.reading() as session:
        since_s = _since_s(ReconcilingRepository(session))
    # read before the walk: what happens meanwhile is walked, but is not in it
    before = market.processor.balance_cents()
    rows = list(market.processor.transactions(since_s))
    reach("payments.reconcile.walked")
    rows.reverse()
    for start in range(0, len(rows), BATCH):
        with market.database.transaction() as session:
            for transaction in rows[start : start + BATCH]:
                _keep(session, transaction, now_s=market.clock.now_s())
    after = market.processor.balance_cents()
    # a movement between one query and the next would be a finding, and end the next start
    with market.database.transaction(one_moment=True) as session:
        return _compare(
            session,
            started_at_s=started_at_s,
            since_s=since_s,
            walked=len(rows),
            # a balance that moved during the walk proves nothing: then only the pairs are compared
            balance_cents=sum(after) if before == after else None,
            now_s=market.clock.now_s(),
        )


def reconcile_daily(market: Market) -> int:
    """A run where the last one began a day ago, whenever this process was started."""
    with market.database.reading() as session:
        last = ReconcilingRepository(session).last(1)
    if last and market.clock.now_s() - last[0].started_at_s < DAILY_S:
        return 0
    return reconcile(market)


def in_book_nanos(session: Session) -> Nanos:
    """What the processor owes us, as the book has it."""
    book = Book(session)
    return -sum(
        book.balance(AccountRef(code)).posted_nanos
        for code in (AccountCode.PROCESSOR_PENDING, AccountCode.PROCESSOR_AVAILABLE)
    )


def _since_s(repository: ReconcilingRepository) -> int:
    newest_s = repository.newest_s()
    pending_s = repository.oldest_pending_s()
    return max(0, min(newest_s, newest_s if pending_s is None else pending_s) - OVERLAP_S)


def _keep(session: Session, transaction: ProcessorTransaction, *, now_s: int) -> None:
    """Remember it, and post what it alone tells; again, only what is new."""
    repository, book = ReconcilingRepository(session), Book(session)
    row = repository.transaction(transaction.transaction_id)
    where = expected(transaction)
    was_available = row is not None and row.is_available
    for posting in postings(transaction, was_available=was_available):
        book.transfer(
            AccountRef(posting.debit),
            AccountRef(posting.credit),
            posting.amount_nanos,
            code=posting.code,
            ref=transaction.transaction_id,
            now_s=now_s,
        )
    if row is None:
        repository.add(
            TransactionRow(
                transaction_id=transaction.transaction_id,
                kind=transaction.kind[:64],
                amount_cents=transaction.amount_cents,
                fee_cents=transaction.fee_cents,
                net_cents=transaction.net_cents,
                created_at_s=transaction.created_at_s,
                is_available=transaction.is_available,
                code=where.code,
                ref=where.ref,
            )
        )
    elif transaction.is_available and not was_available:
        repository.set_available(transaction.transaction_id)
    _match(session, transaction, where.code, where.ref, now_s=now_s)


def _match(
    session: Session, transaction: ProcessorTransaction, code: str, ref: str, *, now_s: int
) -> None:
    """Find it in the book, or say that it is not there."""
    repository = ReconcilingRepository(session)
    there = transaction.amount_cents * NANOS_PER_CENT
    in_book = repository.in_book(book_codes(code), ref) if code else None
    subject = transaction.transaction_id
    if in_book is None:
        repository.find("missing_here", subject, 0, there, now_s)
        return
    repository.resolve("missing_here", subject, now_s)
    # a second payment of the same top-up is another transaction of the same movement
    there = repository.told_cents(code, ref) * NANOS_PER_CENT
    if in_book == there:
        repository.resolve("other_amount", f"{code} {ref}", now_s)
    else:
        repository.find("other_amount", f"{code} {ref}", in_book, there, now_s)


def _compare(
    session: Session,
    *,
    started_at_s: int,
    since_s: int,
    walked: int,
    balance_cents: int | None,
    now_s: int,
) -> int:
    repository = ReconcilingRepository(session)
    _look_again(session, now_s=now_s)
    untold = repository.untold(UNTOLD_MAX)
    for movement in untold:
        if now_s - movement.created_at_s >= GRACE_S:
            subject = f"{movement.code} {movement.ref}"
            repository.find("missing_there", subject, movement.amount_nanos, 0, now_s)
    in_flight = sum(movement.amount_nanos for movement in untold)
    walked_nanos = repository.walked_cents() * NANOS_PER_CENT
    told_nanos = walked_nanos if balance_cents is None else balance_cents * NANOS_PER_CENT
    in_book = in_book_nanos(session)
    foreign = _foreign_nanos(repository)
    if told_nanos == walked_nanos == in_book - in_flight + foreign:
        repository.resolve(BALANCE, BALANCE, now_s)
    else:
        repository.find(BALANCE, BALANCE, in_book - in_flight + foreign, told_nanos, now_s)
    findings = repository.open_findings(FINDINGS_MAX)
    repository.add(
        ReconciliationRow(
            started_at_s=started_at_s,
            walked_since_s=since_s,
            transactions=walked,
            processor_nanos=told_nanos,
            walked_nanos=walked_nanos,
            book_nanos=in_book,
            in_flight_nanos=in_flight,
            findings_open=len(findings),
        )
    )
    if findings:
        log.error("the book and the processor differ: %d findings are open", len(findings))
    return len(findings)


def _look_again(session: Session, *, now_s: int) -> None:
    """Findings that have come right since: a webhook came late, a payout was told of."""
    repository = ReconcilingRepository(session)
    untold = {f"{movement.code} {movement.ref}" for movement in repository.untold(UNTOLD_MAX)}
    for finding in repository.open_findings(FINDINGS_MAX):
        if finding.kind == "missing_there" and finding.subject not in untold:
            repository.resolve(finding.kind, finding.subject, now_s)
        if finding.kind == "missing_here":
            row = repository.transaction(finding.subject)
            if row and row.code and repository.in_book(book_codes(row.code), row.ref) is not None:
                repository.resolve(finding.kind, finding.subject, now_s)
        if finding.kind == "other_amount":
            code, _, ref = finding.subject.partition(" ")
            told = repository.told_cents(code, ref) * NANOS_PER_CENT
            if repository.in_book(book_codes(code), ref) == told:
                repository.resolve(finding.kind, finding.subject, now_s)


def _foreign_nanos(repository: ReconcilingRepository) -> Nanos:
    """What open findings say is there and not in the book."""
    return sum(
        finding.processor_nanos - finding.book_nanos
        for finding in repository.open_findings(FINDINGS_MAX)
        if finding.kind in ("missing_here", "other_amount")
    )
