"""What came of a submission, and what comes later: taken from the processor's own records.

Within the caller's transaction, no HTTP. Whatever is told twice changes nothing the second time.
"""

from collections.abc import Sequence

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.payments.processor import NANOS_PER_CENT, TransferRecord
from marketplace.payouts.models import PayoutRow
from marketplace.payouts.moves import (
    give_back,
    hold,
    in_transit_account,
    payable_account,
    post,
    step,
)
from marketplace.payouts.recipients import bank_word
from marketplace.payouts.recovery_rules import Adopt, Attempt, Hold, decide
from marketplace.payouts.repository import PayoutRepository, RecipientRepository
from marketplace.payouts.states import PayoutState
from marketplace.standing import service as standing

__all__ = ["adopt", "follow", "is_ours", "refuse", "take_back"]


def adopt(
    session: Session, attempt: Attempt, found: Sequence[TransferRecord], *, now_s: int
) -> None:
    """Take the one transfer that is this payout's, or hold the payout where there is a doubt.

    Whoever comes second with the same transfer changes nothing; with another one it is an alarm.
    """
    row = PayoutRepository(session).lock(attempt.payout_id)
    assert row is not None
    if row.state != PayoutState.SUBMITTING:
        _compare(session, row, found, now_s=now_s)
        return
    match decide(attempt, found, now_s=now_s):
        case Adopt(record):
            row.transfer_id, row.transfer_at_s = record.transfer_id, record.created_at_s
            row.deadline_s = None
            step(session, row, PayoutState.SUBMITTED, now_s=now_s)
            target = AccountRef(AccountCode.PROCESSOR_AVAILABLE)
            source = in_transit_account(row.account_id)
            post(session, row, source, target, "payout_sent", now_s=now_s)
            take_back(session, row, record.reversed_cents, now_s=now_s)
            _follow_bank(session, row, now_s=now_s)
        case Hold(kind, detail):
            hold(session, row, kind, detail, now_s=now_s)


def refuse(session: Session, attempt: Attempt, code: str, *, now_s: int) -> None:
    """The processor said a definite no to this very attempt: the money is payable again.

    Only while the attempt is still this worker's: another may be asking again under the same key.
    """
    row = PayoutRepository(session).lock(attempt.payout_id)
    assert row is not None
    if not is_ours(row, attempt):
        return
    give_back(session, row, PayoutState.FAILED, code, now_s=now_s)


def follow(
    session: Session, payout_id: bytes, found: Sequence[TransferRecord], *, now_s: int
) -> None:
    """Take what the processor's book says of a payout that was sent; amounts come from there only.

    One that is still being submitted is left to the recovery, which is told to look at once.
    """
    row = PayoutRepository(session).lock(payout_id)
    if row is None:
        return
    if row.state == PayoutState.SUBMITTING:
        row.deadline_s = min(row.deadline_s or now_s, now_s)
        PayoutRepository(session).save()
        return
    _compare(session, row, found, now_s=now_s)
    for record in found:
        if record.transfer_id == row.transfer_id:
            take_back(session, row, record.reversed_cents, now_s=now_s)


def take_back(session: Session, row: PayoutRow, reversed_cents: int, *, now_s: int) -> None:
    """Post what of a sent payout the processor's book says came back; the total, not the change."""
    change_cents = reversed_cents - row.reversed_cents
    if change_cents <= 0 or reversed_cents > row.amount_cents:
        return
    row.reversed_cents = reversed_cents
    Book(session).transfer(
        AccountRef(AccountCode.PROCESSOR_AVAILABLE),
        payable_account(row.account_id),
        change_cents * NANOS_PER_CENT,
        code="payout_reversed",
        ref=f"{row.payout_id.hex()}:{reversed_cents}",
        now_s=now_s,
    )
    if reversed_cents == row.amount_cents:
        row.reason = "reversed"
        step(session, row, PayoutState.REVERSED, now_s=now_s)
    else:
        detail = f"{reversed_cents} of {row.amount_cents} cents came back."
        PayoutRepository(session).raise_alarm(
            row.payout_id, "partly_reversed", detail, attempt=row.attempt, now_s=now_s
        )


def is_ours(row: PayoutRow, attempt: Attempt) -> bool:
    """Whether nobody has taken the submission over since this attempt was begun."""
    ours = (attempt.attempt, attempt.deadline_s)
    return row.state == PayoutState.SUBMITTING and (row.attempt, row.deadline_s) == ours


def _compare(
    session: Session, row: PayoutRow, found: Sequence[TransferRecord], *, now_s: int
) -> None:
    """What was found for a payout that has gone on: its own transfer, or an alarm."""
    live = [record for record in found if record.reversed_cents < record.amount_cents]
    others = [record.transfer_id for record in live if record.transfer_id != row.transfer_id]
    if others:
        if row.transfer_id is None:
            # its money is payable again here and has left there: nothing more may leave
            reason = f"payout {row.payout_id.hex()} was sent after all"
            standing.freeze(session, row.account_id, reason, now_s=now_s)
        detail = f"The payout is {row.state}, and the processor has {', '.join(others)}."
        PayoutRepository(session).raise_alarm(
            row.payout_id, "other_transfer", detail, attempt=row.attempt, now_s=now_s
        )


def _follow_bank(session: Session, row: PayoutRow, *, now_s: int) -> None:
    """The bank's word may have come before we knew of the transfer."""
    recipient = RecipientRepository(session).lock(row.account_id)
    if recipient is None or row.state != PayoutState.SUBMITTED:
        return
    target = bank_word(row, recipient)
    if target is not None:
        row.reason = "bank_failed" if target is PayoutState.FAILED else ""
        step(session, row, target, now_s=now_s)
