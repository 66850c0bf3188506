"""Refunds: unused balance back to the card it came from.

`reserved → submitted → succeeded | failed`. The money leaves the balance in the book first, in the
transaction that writes the refund down, so that it cannot be spent meanwhile; a refund that fails
brings it back by a movement of its own. The processor is asked by a job, under the refund's id;
what it did not answer is looked up before it is asked again.
"""

import logging

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from ledger.errors import InsufficientFunds as BookRefused
from ledger.failpoint import reach
from marketplace.errors import Conflict, InsufficientFunds, TopupUnknown
from marketplace.market import Market
from marketplace.payments.errors import AmountNotWhole, NotRefundable
from marketplace.payments.models import RefundRow
from marketplace.payments.processor import (
    NANOS_PER_CENT,
    OutcomeUnknown,
    Processor,
    ProcessorBusy,
    ProcessorRefused,
)
from marketplace.payments.records import PaymentStatus, RefundRecord
from marketplace.payments.refunds.repository import RefundRepository
from marketplace.payments.repository import TopupRepository
from marketplace.payments.schemas import RefundRequest, RefundSchema
from marketplace.standing import service as standing

__all__ = ["apply_refund", "request", "schema_of", "send"]

log = logging.getLogger(__name__)

REFUNDS_AT_ONCE_MAX = 100
RETRY_S = 60
RETRY_S_MAX = 6 * 3600
KEY_LIFE_S = 23 * 3600
"""As of a recharge: the processor's 24 hours less one."""
LOOKS_APART_S = 3600
LOOK_AGAIN_S = 6 * 3600
"""A submitted refund is looked at again where no webhook tells of it."""


def request(
    session: Session,
    account_id: str,
    wanted: RefundRequest,
    processor: Processor,
    *,
    asked_by: str,
    now_s: int,
) -> RefundSchema:
    """Take the money out of the balance for a refund; the same id again is the same refund.

    Raises TopupUnknown, NotRefundable, InsufficientFunds, AmountNotWhole or Conflict. What is held
    for requests under way cannot be refunded, and a frozen account gets nothing back.
    """
    refunds, topups = RefundRepository(session), TopupRepository(session)
    row = refunds.find(wanted.refund_id)
    if row is not None:
        if (row.account_id, row.topup_id, row.amount_nanos) != (
            account_id,
            wanted.topup_id,
            wanted.amount_nanos,
        ):
            raise Conflict("This refund id was used before.", hint="Choose a new refund_id.")
        return schema_of(row)
    topup = topups.lock(wanted.topup_id)
    if topup is None or topup.account_id != account_id:
        raise TopupUnknown("There is no such top-up.")
    if wanted.amount_nanos % NANOS_PER_CENT:
        raise AmountNotWhole(max(NANOS_PER_CENT, processor.granularity_nanos))
    if topup.paid_at_s is None or not topups.payment(wanted.topup_id).payment_id:
        raise NotRefundable("This top-up was not paid in a way that can be refunded.")
    if standing.is_frozen(session, account_id):
        raise NotRefundable("The account is frozen.", hint="Ask the operator.")
    if not topups.take_refund(wanted.topup_id, wanted.amount_nanos, topup.amount_nanos):
        raise NotRefundable("More would go back than was paid.", hint="Ask for less.")
    row = RefundRow(
        refund_id=wanted.refund_id,
        topup_id=wanted.topup_id,
        account_id=account_id,
        amount_nanos=wanted.amount_nanos,
        asked_by=asked_by[:64],
        next_at_s=now_s,
        created_at_s=now_s,
    )
    refunds.add(row)
    _reserve(session, row, now_s=now_s)
    return schema_of(row)


def send(market: Market) -> int:
    """Ask for what is reserved and look at what is submitted; gives how many are over."""
    over = 0
    for _ in range(REFUNDS_AT_ONCE_MAX):
        row = _take(market)
        if row is None:
            break
        over += _send_one(market, row)
    return over


def apply_refund(session: Session, record: RefundRecord, *, now_s: int) -> bool:
    """What the processor says of a refund; gives whether it is over with it. None of ours: False.

    A refund may fail long after it succeeded: the card's bank sent the money back.
    """
    refunds = RefundRepository(session)
    row = refunds.find(bytes.fromhex(record.refund_id)) if record.refund_id else None
    if row is None:
        return False
    names = {"processor_id": record.processor_id}
    match record.status:
        case PaymentStatus.PENDING:
            refunds.move(row.refund_id, "submitted", names)
            refunds.set(row.refund_id, {"next_at_s": now_s + LOOK_AGAIN_S})
            return False
        case PaymentStatus.SUCCEEDED:
            return refunds.move(row.refund_id, "succeeded", names)
        case PaymentStatus.FAILED:
            return _fail(session, row, record.failure or "failed", names, now_s=now_s)


def schema_of(row: RefundRow) -> RefundSchema:
    return RefundSchema.model_validate(
        {
            "refund_id": row.refund_id,
            "topup_id": row.topup_id,
            "amount_nanos": row.amount_nanos,
            "status": row.state,
            "failure": row.failure,
            "created_at_s": row.created_at_s,
        }
    )


def _reserve(session: Session, row: RefundRow, *, now_s: int) -> None:
    cash = AccountRef(AccountCode.BUYER_CASH, row.account_id)
    book = Book(session)
    try:
        book.transfer(
            cash,
            AccountRef(AccountCode.PROCESSOR_AVAILABLE),
            row.amount_nanos,
            code="refund",
            ref=row.refund_id.hex(),
            now_s=now_s,
        )
    except BookRefused as error:
        available = book.balance(cash).available_nanos
        raise InsufficientFunds(row.amount_nanos, available) from error


def _take(market: Market) -> RefundRow | None:
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        row = RefundRepository(session).take_due(now_s, now_s + RETRY_S)
        if row is not None:
            row.next_at_s = now_s + min(RETRY_S << min(row.attempts - 1, 10), RETRY_S_MAX)
    return row


def _send_one(market: Market, row: RefundRow) -> bool:
    with market.database.reading() as session:
        payment_id = TopupRepository(session).payment(row.topup_id).payment_id
    try:
        found = _look_up(market, row, payment_id) if row.attempts > 1 else None
        if found is None:
            if market.clock.now_s() - row.created_at_s >= KEY_LIFE_S:
                return _miss(market, row)
            reach("payments.refund.before")
            found = market.processor.create_refund(
                row.refund_id, payment_id, row.amount_nanos // NANOS_PER_CENT
            )
            reach("payments.refund.after")
    except ProcessorRefused as error:
        with market.database.transaction() as session:
            return _fail(session, row, error.code, {}, now_s=market.clock.now_s())
    except (OutcomeUnknown, ProcessorBusy) as error:
        log.warning("refund %s is not decided: %s", row.refund_id.hex(), error.message)
        return False
    with market.database.transaction() as session:
        return apply_refund(session, found, now_s=market.clock.now_s())


def _look_up(market: Market, row: RefundRow, payment_id: str) -> RefundRecord | None:
    ours = row.refund_id.hex()
    found = market.processor.find_refunds(payment_id)
    return next((record for record in found if record.refund_id == ours), None)


def _miss(market: Market, row: RefundRow) -> bool:
    """Nothing there and our key is forgotten: the second look in an hour that says so ends it."""
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        if row.missed_at_s is None:
            values = {"missed_at_s": now_s, "next_at_s": now_s + LOOKS_APART_S}
            RefundRepository(session).set(row.refund_id, values)
            return False
        if now_s - row.missed_at_s < LOOKS_APART_S:
            return False
        return _fail(session, row, "never_refunded", {}, now_s=now_s)


def _fail(
    session: Session, row: RefundRow, reason: str, names: dict[str, str], *, now_s: int
) -> bool:
    """The money is the buyer's again, once."""
    if not RefundRepository(session).move(
        row.refund_id, "failed", {**names, "failure": reason[:64]}
    ):
        return False
    TopupRepository(session).give_refund_back(row.topup_id, row.amount_nanos)
    Book(session).transfer(
        AccountRef(AccountCode.PROCESSOR_AVAILABLE),
        AccountRef(AccountCode.BUYER_CASH, row.account_id),
        row.amount_nanos,
        code="refund_failed",
        ref=row.refund_id.hex(),
        now_s=now_s,
    )
    return True
