"""Top-ups: opened by the buyer, paid at the processor, credited once by its event."""

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.errors import Conflict, TopupUnknown
from marketplace.payments.models import PaymentEventRow, TopupRow
from marketplace.payments.processor import PaymentEvent
from marketplace.payments.repository import TopupRepository
from marketplace.payments.schemas import TopupSchema
from protocol.money import Nanos

__all__ = ["amount_of", "apply_event", "find", "open_topup", "set_checkout"]

TRANSFER_CODE = "topup"
"""Of the transfer that credits; its ref is the top-up's id, so it can happen once."""


def open_topup(
    session: Session, account_id: str, topup_id: bytes, amount_nanos: Nanos, *, now_s: int
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
        repository.add(row)
    elif (row.account_id, row.amount_nanos) != (account_id, amount_nanos):
        raise Conflict("This top-up id was used before.", hint="Choose a new topup_id.")
    return _schema(row)


def set_checkout(session: Session, topup_id: bytes, url: str) -> None:
    """Keep where the buyer pays."""
    TopupRepository(session).set_checkout(topup_id, url)


def find(session: Session, account_id: str, topup_id: bytes) -> TopupSchema:
    """One of the account's top-ups; raises TopupUnknown, also for another account's."""
    row = TopupRepository(session).get(topup_id)
    if row is None or row.account_id != account_id:
        raise TopupUnknown("There is no such top-up.")
    return _schema(row)


def amount_of(session: Session, topup_id: bytes) -> Nanos:
    """What a top-up is for; raises TopupUnknown."""
    row = TopupRepository(session).get(topup_id)
    if row is None:
        raise TopupUnknown("There is no such top-up.")
    return row.amount_nanos


def apply_event(session: Session, event: PaymentEvent, *, now_s: int) -> None:
    """Credit the buyer, exactly once however often and by whichever event it is told.

    Raises TopupUnknown, or Conflict where the processor took another amount.
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
    if repository.mark_paid(event.topup_id, now_s):
        Book(session).transfer(
            AccountRef(AccountCode.PROCESSOR_PENDING),
            AccountRef(AccountCode.BUYER_CASH, row.account_id),
            row.amount_nanos,
            code=TRANSFER_CODE,
            ref=event.topup_id.hex(),
            now_s=now_s,
        )


def _schema(row: TopupRow) -> TopupSchema:
    return TopupSchema(
        topup_id=row.topup_id,
        status="open" if row.paid_at_s is None else "paid",
        amount_nanos=row.amount_nanos,
        checkout_url=row.checkout_url,
    )
