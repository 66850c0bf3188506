"""Reserving a payout and every step it takes after: within the caller's transaction, no HTTP.

The processor is asked in `sending.py` and `recovery.py`, always between two of these transactions.
"""

import os
import time

from ledger.book import Book
from ledger.database import Session
from marketplace.errors import Conflict
from marketplace.payments.processor import NANOS_PER_CENT
from marketplace.payouts.errors import PayoutRefused, RecipientMissing
from marketplace.payouts.events import on_processor_event
from marketplace.payouts.models import PayoutRow
from marketplace.payouts.moves import (
    FROZEN,
    give_back,
    in_transit_account,
    payable_account,
    post,
    step,
)
from marketplace.payouts.outbox import service as outbox
from marketplace.payouts.outbox.service import Topic
from marketplace.payouts.recipients import terms_of
from marketplace.payouts.recovery_rules import Attempt
from marketplace.payouts.repository import PayoutRepository, RecipientRepository
from marketplace.payouts.schedule import Schedule, payout_cents
from marketplace.payouts.states import PayoutState, require_step
from marketplace.standing import service as standing
from protocol.lease import ID_BYTES

__all__ = [
    "begin_attempt",
    "cancel",
    "new_payout_id",
    "on_processor_event",
    "reserve",
    "resume",
]

SUBMIT_S = 120
"""How long a submission is its worker's: longer than one call with the client's own retries."""


def new_payout_id() -> bytes:
    """A UUIDv7: payouts that we begin sort by time."""
    stamp = time.time_ns() // 1_000_000
    data = bytearray(stamp.to_bytes(6) + os.urandom(ID_BYTES - 6))
    data[6] = 0x70 | data[6] & 0x0F
    data[8] = 0x80 | data[8] & 0x3F
    return bytes(data)


def reserve(
    session: Session, account_id: str, payout_id: bytes, *, origin: Schedule, now_s: int
) -> PayoutRow:
    """Set all that is payable aside for one payout and have it sent; the same id again is the same.

    Raises Conflict where the id is another account's, PayoutRefused, or RecipientMissing.
    """
    book, payouts = Book(session), PayoutRepository(session)
    # the lock that orders payouts of one account, before anything is read
    book.lock((payable_account(account_id), in_transit_account(account_id)))
    if row := payouts.get(payout_id):
        if row.account_id != account_id:
            raise Conflict("This payout id was used before.", hint="Choose a new payout_id.")
        return row
    recipient = _require_payable(session, account_id)
    payable = book.balance(payable_account(account_id)).available_nanos
    cents = payout_cents(payable, terms_of(session, account_id).minimum_cents)
    if not cents:
        raise PayoutRefused(
            "below_minimum",
            "What is payable is below the minimum of a payout.",
            hint="Wait, or lower the minimum with PUT /v1/payouts/schedule.",
            payable_nanos=payable,
        )
    row = PayoutRow(
        payout_id=payout_id,
        account_id=account_id,
        recipient=recipient,
        origin=origin.value,
        amount_nanos=cents * NANOS_PER_CENT,
        amount_cents=cents,
        state=PayoutState.DRAFT.value,
        created_at_s=now_s,
        changed_at_s=now_s,
    )
    payouts.add(row)
    post(
        session,
        row,
        payable_account(account_id),
        in_transit_account(account_id),
        "payout",
        now_s=now_s,
    )
    step(session, row, PayoutState.RESERVED, now_s=now_s)
    outbox.put(session, Topic.SEND, payout_id.hex(), {"payout": payout_id.hex()}, now_s=now_s)
    return row


def begin_attempt(session: Session, row: PayoutRow, attempt: int, *, now_s: int) -> Attempt:
    """Say, before anything is sent, that this attempt is being made and by when it has an end."""
    if attempt != row.attempt:
        row.attempt, row.attempt_at_s, row.missed_at_s = attempt, now_s, None
    row.deadline_s = now_s + SUBMIT_S
    if row.state == PayoutState.SUBMITTING:
        PayoutRepository(session).save()
    else:
        step(session, row, PayoutState.SUBMITTING, now_s=now_s)
    assert row.attempt_at_s is not None
    return Attempt(
        payout_id=row.payout_id,
        recipient=row.recipient,
        amount_cents=row.amount_cents,
        attempt=row.attempt,
        attempt_at_s=row.attempt_at_s,
        deadline_s=row.deadline_s,
        missed_at_s=row.missed_at_s,
    )


def cancel(session: Session, payout_id: bytes, reason: str, *, now_s: int) -> None:
    """Give up a payout that was never sent; for operators. Raises PayoutStateInvalid."""
    row = PayoutRepository(session).lock(payout_id)
    if row is None:
        raise Conflict("There is no such payout.")
    if row.attempt:
        # something was sent under its name: only the processor's word may end it
        raise Conflict("This payout may have been sent.", hint="Resume it; it is looked up then.")
    give_back(session, row, PayoutState.CANCELED, reason, now_s=now_s)


def resume(session: Session, payout_id: bytes, *, now_s: int) -> None:
    """Let a held payout go on: sent if it never was, else looked up first.

    Raises PayoutStateInvalid unless it is held.
    """
    row = PayoutRepository(session).lock(payout_id)
    if row is None:
        raise Conflict("There is no such payout.")
    require_step(PayoutState(row.state), PayoutState.RESERVED)
    row.reason = ""
    if row.attempt:
        row.deadline_s = now_s
        step(session, row, PayoutState.SUBMITTING, now_s=now_s)
        return
    step(session, row, PayoutState.RESERVED, now_s=now_s)
    outbox.put(session, Topic.SEND, payout_id.hex(), {"payout": payout_id.hex()}, now_s=now_s)


def _require_payable(session: Session, account_id: str) -> str:
    """The account's recipient; raises what stands in the way of paying it now."""
    if standing.is_frozen(session, account_id):
        raise PayoutRefused(
            FROZEN, "This account is frozen.", hint="Ask the operator of the marketplace."
        )
    recipient = RecipientRepository(session).get(account_id)
    if recipient is None or not recipient.payouts_enabled:
        missing = recipient.missing.split("\n") if recipient and recipient.missing else []
        raise RecipientMissing(tuple(missing))
    if PayoutRepository(session).open_of(account_id) is not None:
        raise PayoutRefused("open_payout", "A payout is under way.", hint="Wait until it is sent.")
    return recipient.recipient
