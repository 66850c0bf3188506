"""Payouts whose submission nobody answered for: looked up first, then sent again or held.

The rules are in `recovery_rules.py`; here they meet the database and the processor, one step at a
time. A process may die after any of them, and the next turn begins with looking again.
"""

import logging

from ledger.failpoint import reach
from marketplace.errors import MarketError
from marketplace.market import Market
from marketplace.payments.processor import ProcessorError, TransferRecord
from marketplace.payouts import outcomes, service
from marketplace.payouts.moves import FROZEN
from marketplace.payouts.outbox import service as outbox
from marketplace.payouts.outbox.service import Letter, Topic
from marketplace.payouts.recipients import refresh
from marketplace.payouts.recovery_rules import (
    Adopt,
    Attempt,
    Hold,
    NewKey,
    SameKey,
    Wait,
    decide,
)
from marketplace.payouts.repository import PayoutRepository
from marketplace.payouts.sending import record, submit
from marketplace.payouts.service import begin_attempt
from marketplace.standing import service as standing

__all__ = [
    "look",
    "look_again",
    "recover_one",
    "refresh_recipient",
    "resolve",
    "resume_unfrozen",
    "take_overdue",
]

log = logging.getLogger(__name__)

HELD_MAX = 1000
"""Frozen payouts looked at in one turn; there should be few."""


def recover_one(market: Market) -> bool:
    """Find out about one payout whose time is over; False where there is none."""
    attempt = take_overdue(market)
    if attempt is None:
        return False
    found = look(market, attempt.name)
    if found is not None:
        again = resolve(market, attempt, found)
        if again is not None:
            record(market, again, submit(market, again))
    return True


def take_overdue(market: Market) -> Attempt | None:
    """Claim one by giving it a new deadline, which fences off whoever had it before."""
    reach("payouts.recover.before")
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        row = PayoutRepository(session).overdue(now_s)
        if row is None:
            return None
        attempt = begin_attempt(session, row, row.attempt, now_s=now_s)
    reach("payouts.recover.taken")
    return attempt


def look(market: Market, payout: str) -> list[TransferRecord] | None:
    """Every transfer of the payout's group; None if the processor does not say."""
    try:
        found = market.payout_processor.find_transfers(payout)
    except ProcessorError as error:
        log.warning("payout %s cannot be looked up: %s", payout[:8], error.message)
        return None
    reach("payouts.recover.looked")
    return found


def resolve(market: Market, attempt: Attempt, found: list[TransferRecord]) -> Attempt | None:
    """Commit what follows from the look-up; gives the attempt to submit, if one is to be made."""
    now_s = market.clock.now_s()
    again: Attempt | None = None
    with market.database.transaction() as session:
        payouts = PayoutRepository(session)
        row = payouts.lock(attempt.payout_id)
        assert row is not None
        if not outcomes.is_ours(row, attempt):
            return None
        match decide(attempt, found, now_s=now_s):
            case Adopt() | Hold():
                outcomes.adopt(session, attempt, found, now_s=now_s)
            case SameKey():
                again = attempt
            case Wait(until_s, missed_at_s):
                row.deadline_s, row.missed_at_s = until_s, missed_at_s
                payouts.save()
            case NewKey():
                detail = f"Two look-ups found no transfer; attempt {row.attempt + 1} begins."
                payouts.raise_alarm(
                    row.payout_id, "new_key", detail, attempt=row.attempt, now_s=now_s
                )
                again = begin_attempt(session, row, row.attempt + 1, now_s=now_s)
    reach("payouts.recover.resolved")
    return again


def look_again(market: Market) -> bool:
    """Compare one payout with the processor's book because an event asked for it."""
    letter = _claim(market, Topic.LOOK)
    if letter is None:
        return False
    payout = letter.payload["payout"]
    found = look(market, payout)
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        if found is None:
            outbox.fail(session, letter, "the processor does not say", now_s=now_s)
            return True
        outcomes.follow(session, bytes.fromhex(payout), found, now_s=now_s)
        outbox.finish(session, letter, now_s=now_s)
    return True


def refresh_recipient(market: Market) -> bool:
    """Fetch one recipient's state because an event asked for it."""
    letter = _claim(market, Topic.RECIPIENT)
    if letter is None:
        return False
    error = ""
    try:
        refresh(market, letter.payload["account"])
    except MarketError as failure:
        error = failure.message
    with market.database.transaction() as session:
        if error:
            outbox.fail(session, letter, error, now_s=market.clock.now_s())
        else:
            outbox.finish(session, letter, now_s=market.clock.now_s())
    return True


def resume_unfrozen(market: Market) -> bool:
    """Let one payout go on whose account is no longer frozen; False where there is none."""
    with market.database.transaction() as session:
        for row in PayoutRepository(session).held_for(FROZEN, HELD_MAX):
            if not standing.is_frozen(session, row.account_id):
                service.resume(session, row.payout_id, now_s=market.clock.now_s())
                return True
    return False


def _claim(market: Market, topic: Topic) -> Letter | None:
    with market.database.transaction() as session:
        return outbox.claim(session, topic, now_s=market.clock.now_s())
