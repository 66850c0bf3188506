"""Chargebacks: a card holder's bank takes a payment back, and Stripe a fee with it.

What the buyer still has goes first; the rest is our loss. The account is frozen until the complaint
is won, or an operator looks at it. Only what the processor says when it is asked counts.
"""

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.payments.models import ChargebackRow
from marketplace.payments.processor import NANOS_PER_CENT
from marketplace.payments.records import ChargebackRecord, ChargebackStatus
from marketplace.payments.refunds.repository import ChargebackRepository
from marketplace.payments.repository import TopupRepository
from marketplace.standing import service as standing

__all__ = ["apply_chargeback", "freeze_reason"]

AVAILABLE = AccountRef(AccountCode.PROCESSOR_AVAILABLE)
LOSS = AccountRef(AccountCode.CHARGEBACK_LOSS)


def freeze_reason(dispute_id: str) -> str:
    """Of one complaint: winning it lifts this reason and no other."""
    return f"chargeback {dispute_id}"


def apply_chargeback(session: Session, record: ChargebackRecord, *, now_s: int) -> bool:
    """Bring the book to what the processor says; gives whether anything changed.

    A warning that took no money changes nothing. A complaint about a payment that is none of ours
    changes nothing either: reconciliation finds the money that it took.
    """
    topups, chargebacks = TopupRepository(session), ChargebackRepository(session)
    payment = topups.by_payment(record.payment_id) if record.payment_id else None
    topup = topups.lock(payment.topup_id) if payment is not None else None
    if topup is None or not record.has_taken:
        return False
    row = chargebacks.lock(record.dispute_id)
    changed = False
    if row is None:
        row = _open(session, record, topup.topup_id, topup.account_id, now_s=now_s)
        chargebacks.add(row)
        changed = True
    if row.state == "open" and record.status is not ChargebackStatus.OPEN:
        chargebacks.close(record.dispute_id, record.status.value, now_s)
        if record.status is ChargebackStatus.WON:
            _give_back(session, row, now_s=now_s)
        changed = True
    return changed


def _open(
    session: Session, record: ChargebackRecord, topup_id: bytes, account_id: str, *, now_s: int
) -> ChargebackRow:
    """Take the money: from the balance as far as it goes, the rest is lost."""
    book = Book(session)
    cash_account = AccountRef(AccountCode.BUYER_CASH, account_id)
    # locked first: what is read here is what can be taken
    book.lock((cash_account, AVAILABLE, LOSS))
    amount = record.amount_cents * NANOS_PER_CENT
    cash = min(amount, max(0, book.balance(cash_account).available_nanos))
    ref = record.dispute_id
    if cash:
        book.transfer(cash_account, AVAILABLE, cash, code="chargeback", ref=ref, now_s=now_s)
    if amount - cash:
        loss = amount - cash
        book.transfer(LOSS, AVAILABLE, loss, code="chargeback_loss", ref=ref, now_s=now_s)
    standing.freeze(session, account_id, freeze_reason(ref), now_s=now_s)
    return ChargebackRow(
        dispute_id=record.dispute_id,
        topup_id=topup_id,
        account_id=account_id,
        amount_nanos=amount,
        cash_nanos=cash,
        loss_nanos=amount - cash,
        reason=record.reason[:64],
        opened_at_s=now_s,
    )


def _give_back(session: Session, row: ChargebackRow, *, now_s: int) -> None:
    """The reverse of what was taken, to whom it was taken from."""
    book = Book(session)
    cash_account = AccountRef(AccountCode.BUYER_CASH, row.account_id)
    ref = row.dispute_id
    if row.cash_nanos:
        book.transfer(
            AVAILABLE, cash_account, row.cash_nanos, code="chargeback_won", ref=ref, now_s=now_s
        )
    if row.loss_nanos:
        book.transfer(
            AVAILABLE, LOSS, row.loss_nanos, code="chargeback_won_loss", ref=ref, now_s=now_s
        )
    standing.unfreeze(session, row.account_id, now_s=now_s, reason=freeze_reason(ref))
