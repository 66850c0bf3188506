"""Top-ups: opened by the buyer, paid at the processor, credited once by what it reports."""

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.errors import Conflict, TopupUnknown
from marketplace.payments.cards import saving
from marketplace.payments.cards.repository import BillingRepository
from marketplace.payments.errors import AmountNotWhole, TopupLimit
from marketplace.payments.models import PaymentEventRow, PaymentRow, TopupRow
from marketplace.payments.processor import NANOS_PER_CENT, Processor
from marketplace.payments.records import Checkout, Payment, PaymentEvent, PaymentStatus
from marketplace.payments.repository import TopupRepository
from marketplace.payments.risk import PaidHistory, left_today_nanos
from marketplace.payments.schemas import TopupSchema
from marketplace.standing import service as standing
from protocol.money import Nanos

__all__ = [
    "admit",
    "amount_of",
    "apply_event",
    "apply_payment",
    "check_amount",
    "find",
    "open_topup",
    "set_checkout",
]

TRANSFER_CODE = "topup"
"""Of the transfer that credits; its ref is the top-up's id, so it can happen once."""


def check_amount(processor: Processor, past: PaidHistory, amount: Nanos, *, now_s: int) -> None:
    """Raise AmountNotWhole or TopupLimit; the test processor takes any amount."""
    if amount % processor.granularity_nanos:
        raise AmountNotWhole(processor.granularity_nanos)
    if processor.name == "test":
        return
    left = left_today_nanos(past, now_s=now_s)
    if amount > left:
        raise TopupLimit(left)


def admit(
    session: Session,
    processor: Processor,
    account_id: str,
    topup_id: bytes,
    amount_nanos: Nanos,
    *,
    now_s: int,
) -> PaidHistory:
    """Let a page be opened for a top-up, a new one or one whose page has closed, within what the
    account may pay in today; gives what it has paid so far.

    One at a time for an account, recharges included: of two at once each would fit alone. Raises
    AmountNotWhole or TopupLimit.
    """
    repository = TopupRepository(session)
    # the top-up before its account, as whoever credits it locks them
    row = repository.lock(topup_id)
    BillingRepository(session).lock(account_id)
    past = repository.history(account_id, now_s, but=topup_id)
    if row is None:
        check_amount(processor, past, amount_nanos, now_s=now_s)
    elif row.account_id == account_id and not repository.has_open_page(topup_id, now_s):
        # what was opened another day and not paid then is paid in today
        check_amount(processor, past, row.amount_nanos, now_s=now_s)
        repository.open_again(topup_id, now_s)
    return past


def open_topup(
    session: Session,
    account_id: str,
    topup_id: bytes,
    amount_nanos: Nanos,
    *,
    now_s: int,
    method: str = "checkout",
) -> TopupSchema:
    """A new top-up, or the same one again; raises Conflict where the id means another."""
    repository = TopupRepository(session)
    row = repository.get(topup_id)
    if row is None:
        row = TopupRow(
            topup_id=topup_id,
            account_id=account_id,
            amount_nanos=amount_nanos,
            created_at_s=now_s,
        )
        repository.add(row, PaymentRow(topup_id=topup_id, method=method))
    elif (row.account_id, row.amount_nanos) != (account_id, amount_nanos):
        raise Conflict("This top-up id was used before.", hint="Choose a new topup_id.")
    return _schema(row, repository.payment(topup_id))


def set_checkout(session: Session, topup_id: bytes, checkout: Checkout) -> None:
    """Keep where the buyer pays."""
    TopupRepository(session).set_checkout(
        topup_id,
        checkout.url,
        {"checkout_id": checkout.checkout_id, "expires_at_s": checkout.expires_at_s},
    )


def find(session: Session, account_id: str, topup_id: bytes) -> TopupSchema:
    """One of the account's top-ups; raises TopupUnknown, also for another account's."""
    repository = TopupRepository(session)
    row = repository.get(topup_id)
    if row is None or row.account_id != account_id:
        raise TopupUnknown("There is no such top-up.")
    return _schema(row, repository.payment(topup_id))


def amount_of(session: Session, topup_id: bytes) -> Nanos:
    """What a top-up is for; raises TopupUnknown."""
    row = TopupRepository(session).get(topup_id)
    if row is None:
        raise TopupUnknown("There is no such top-up.")
    return row.amount_nanos


def apply_payment(session: Session, payment: Payment, *, now_s: int) -> bool:
    """Credit what the processor says is paid; False where it is not, or is none of ours."""
    if payment.status is not PaymentStatus.SUCCEEDED or payment.topup_id is None:
        return False
    event = PaymentEvent(
        # the payment itself is what counts once, by whichever event it is told
        event_id=payment.payment_id,
        topup_id=payment.topup_id,
        amount_nanos=payment.amount_cents * NANOS_PER_CENT,
        payment_id=payment.payment_id,
        receipt_url=payment.receipt_url,
        card=payment.card,
    )
    apply_event(session, event, now_s=now_s)
    return True


def apply_event(session: Session, event: PaymentEvent, *, now_s: int) -> None:
    """Credit the buyer, exactly once however often and by whichever event it is told.

    A second payment of the same top-up credits nothing: reconciliation finds it, for an operator to
    give back. Raises TopupUnknown, or Conflict where the processor took another amount.
    """
    repository = TopupRepository(session)
    row = repository.lock(event.topup_id)
    if row is None:
        raise TopupUnknown("The event names no top-up of ours.")
    if repository.is_known(event.event_id):
        return
    if row.amount_nanos != event.amount_nanos:
        raise Conflict("The processor took another amount than the top-up's.")
    repository.add_event(
        PaymentEventRow(event_id=event.event_id, topup_id=event.topup_id, received_at_s=now_s)
    )
    if not repository.mark_paid(event.topup_id, now_s):
        return
    repository.set_payment(
        event.topup_id,
        {"payment_id": event.payment_id, "receipt_url": event.receipt_url, "failure": ""},
    )
    Book(session).transfer(
        AccountRef(AccountCode.PROCESSOR_PENDING),
        AccountRef(AccountCode.BUYER_CASH, row.account_id),
        row.amount_nanos,
        code=TRANSFER_CODE,
        ref=event.topup_id.hex(),
        now_s=now_s,
    )
    if event.card is not None:
        if event.card.fingerprint:
            standing.note_fingerprint(
                session, row.account_id, "card", event.card.fingerprint, now_s=now_s
            )
        if event.card.card_id:
            saving.keep_card(session, row.account_id, event.card, now_s=now_s)


def _schema(row: TopupRow, payment: PaymentRow) -> TopupSchema:
    return TopupSchema(
        topup_id=row.topup_id,
        status="open" if row.paid_at_s is None else "paid",
        amount_nanos=row.amount_nanos,
        checkout_url=row.checkout_url,
        receipt_url=payment.receipt_url,
    )
