"""The jobs of payouts: release, plan, send, recover. Each may run in several processes at once."""

import logging
from collections.abc import Callable, Sequence
from itertools import count

from ledger.failpoint import reach
from marketplace.errors import MarketError
from marketplace.machines.service import account_of
from marketplace.market import Market
from marketplace.payments.processor import NANOS_PER_CENT, ProcessorError
from marketplace.payouts import service
from marketplace.payouts.recovery import (
    look_again,
    recover_one,
    refresh_recipient,
    resume_unfrozen,
)
from marketplace.payouts.releases.repository import ReleaseRepository
from marketplace.payouts.releases.service import give_back_due, release_machine
from marketplace.payouts.repository import PayoutRepository
from marketplace.payouts.schedule import Schedule, due_at
from marketplace.payouts.sending import send_one
from marketplace.worker import Job

__all__ = ["PAYOUT_JOBS", "plan", "recover", "release", "send"]

log = logging.getLogger(__name__)

PAGE = 200
"""Machines or accounts read at once, and held parts given back in one transaction."""
TURNS_MAX = 500
"""Pieces of work of one turn, so that a backlog cannot keep a thread for ever."""
RELEASE_EVERY_S = 600
PLAN_EVERY_S = 600
SEND_EVERY_S = 5
RECOVER_EVERY_S = 30


def release(market: Market) -> int:
    """Release what is old enough, and give back what need not be held; gives how much was done."""
    done, after = 0, ""
    while True:
        with market.database.reading() as session:
            machines = ReleaseRepository(session).machines_with_earnings(after=after, limit=PAGE)
        for machine in machines:
            now_s = market.clock.now_s()
            with market.database.transaction() as session:
                done += release_machine(session, machine, account_of, now_s=now_s)
            reach("payouts.release.after")
        if len(machines) < PAGE:
            break
        after = machines[-1]
    for _ in range(TURNS_MAX):
        with market.database.transaction() as session:
            given = give_back_due(session, now_s=market.clock.now_s(), limit=PAGE)
        done += given
        if given < PAGE:
            break
    return done


def plan(market: Market) -> int:
    """Reserve a payout for every account that is due, within what the processor can send now."""
    try:
        available_cents = market.payout_processor.available_cents()
    except ProcessorError:
        return 0
    done, after = 0, ""
    while available_cents > 0:
        now_s = market.clock.now_s()
        with market.database.reading() as session:
            due = PayoutRepository(session).accounts_due(due_at(now_s), after=after, limit=PAGE)
        for account_id, payable_nanos in due:
            if payable_nanos // NANOS_PER_CENT > available_cents:
                continue
            cents = _plan_one(market, account_id, now_s)
            available_cents -= cents
            done += 1 if cents else 0
        if len(due) < PAGE:
            break
        after = due[-1][0]
    return done


def send(market: Market) -> int:
    """Submit the payouts that wait for it."""
    return _until_done(market, send_one)


def recover(market: Market) -> int:
    """Find out about payouts without an answer, and follow the processor's events."""
    steps = (resume_unfrozen, recover_one, look_again, refresh_recipient)
    return sum(_until_done(market, step) for step in steps)


PAYOUT_JOBS: Sequence[Job] = (
    Job("release", lambda _: RELEASE_EVERY_S, release),
    Job("payouts_plan", lambda _: PLAN_EVERY_S, plan),
    Job("payouts_send", lambda _: SEND_EVERY_S, send),
    Job("payouts_recover", lambda _: RECOVER_EVERY_S, recover),
)


def _plan_one(market: Market, account_id: str, now_s: int) -> int:
    """Cents reserved; 0 where something changed since the account was read."""
    payout_id = service.new_payout_id()
    try:
        with market.database.transaction() as session:
            row = service.reserve(
                session, account_id, payout_id, origin=Schedule.WEEKLY, now_s=now_s
            )
            cents = row.amount_cents
    except MarketError as error:
        log.info("no payout for %s: %s", account_id[:8], error.message)
        return 0
    reach("payouts.reserve.after")
    return cents


def _until_done(market: Market, step: Callable[[Market], bool]) -> int:
    """Repeat one step until it finds nothing, at most TURNS_MAX times."""
    return next(turn for turn in count() if turn == TURNS_MAX or not step(market))
