"""Submitting payouts: committed as `submitting`, sent outside any transaction, then committed.

Three steps that may each be the last thing a process does; what is left half done is found by
`recovery.py`, which looks at the processor's own book first.
"""

import logging
from dataclasses import dataclass

from ledger.failpoint import reach
from marketplace.market import Market
from marketplace.payments.processor import (
    OutcomeUnknown,
    ProcessorBusy,
    ProcessorRefused,
    TransferRecord,
)
from marketplace.payouts import outcomes, service
from marketplace.payouts.moves import FROZEN, hold
from marketplace.payouts.outbox import service as outbox
from marketplace.payouts.outbox.service import Topic
from marketplace.payouts.recovery_rules import Attempt
from marketplace.payouts.repository import PayoutRepository
from marketplace.payouts.states import PayoutState
from marketplace.standing import service as standing

__all__ = ["NoAnswer", "Outcome", "Refusal", "record", "send_one", "submit", "take"]

log = logging.getLogger(__name__)

DOUBTFUL_CODES = frozenset({"idempotency_error", "idempotency_key_in_use"})
"""Refusals that say nothing about the transfer: the key was used before, perhaps for it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A definite no."""

    code: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """It may have happened, or was not tried: the recovery looks after the deadline."""

    why: str


Outcome = TransferRecord | Refusal | NoAnswer


def send_one(market: Market) -> bool:
    """Submit one payout that waits for it; False where none does."""
    taken, attempt = take(market)
    if attempt is not None:
        record(market, attempt, submit(market, attempt))
    return taken


def take(market: Market) -> tuple[bool, Attempt | None]:
    """Claim one payout and commit that it is being submitted.

    Gives whether there was anything to do, and the attempt unless the payout has gone on, or may
    not go on because its account is frozen.
    """
    reach("payouts.take.before")
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        letter = outbox.claim_and_finish(session, Topic.SEND, now_s=now_s)
        if letter is None:
            return False, None
        row = PayoutRepository(session).lock(bytes.fromhex(letter.payload["payout"]))
        if row is None or row.state != PayoutState.RESERVED:
            return True, None
        if standing.is_frozen(session, row.account_id):
            hold(session, row, FROZEN, "", now_s=now_s)
            return True, None
        attempt = service.begin_attempt(session, row, max(row.attempt, 1), now_s=now_s)
    reach("payouts.take.after")
    return True, attempt


def submit(market: Market, attempt: Attempt) -> Outcome:
    """Ask the processor, in no transaction. An attempt whose time is over is not sent."""
    if market.clock.now_s() >= attempt.deadline_s:
        # this process slept: the recovery may have looked, and even begun another attempt
        return NoAnswer("the attempt's time was over before it was sent")
    reach("payouts.send.before_call")
    try:
        sent = market.payout_processor.create_transfer(
            attempt.name, attempt.amount_cents, attempt.recipient, attempt=attempt.attempt
        )
    except ProcessorRefused as error:
        return NoAnswer(error.code) if error.code in DOUBTFUL_CODES else Refusal(error.code)
    except (OutcomeUnknown, ProcessorBusy) as error:
        log.warning("payout %s: no answer yet: %s", attempt.name[:8], error.message)
        return NoAnswer(error.message)
    reach("payouts.send.after_call")
    return sent


def record(market: Market, attempt: Attempt, outcome: Outcome) -> None:
    """Commit what the processor said; nothing where it said nothing."""
    if isinstance(outcome, NoAnswer):
        return
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        if isinstance(outcome, Refusal):
            outcomes.refuse(session, attempt, outcome.code, now_s=now_s)
        else:
            outcomes.adopt(session, attempt, [outcome], now_s=now_s)
    reach("payouts.send.after_commit")
