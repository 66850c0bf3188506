"""The inbox of the processor's events: kept before they are answered, acted on by a job.

An event is only kept where its signature is good. It may come twice, late and in any order: what
is acted on is the object as the processor has it now. An event that keeps failing is given up after
ATTEMPTS_MAX tries, over about two days, and an operator sees it.
"""

import logging

from ledger.errors import LedgerError
from ledger.failpoint import reach
from marketplace.errors import MarketError
from marketplace.market import Market
from marketplace.payments import handlers
from marketplace.payments.errors import EventRefused
from marketplace.payments.inbox.models import WebhookRow
from marketplace.payments.inbox.repository import WebhookRepository
from marketplace.payments.processor import EventUnverified, ProcessorError

__all__ = ["process", "receive"]

log = logging.getLogger(__name__)

EVENTS_AT_ONCE_MAX = 500
"""Of one turn of the job."""
ATTEMPTS_MAX = 16
RETRY_S = 30
"""Until an event that failed is tried again; it doubles up to RETRY_S_MAX."""
RETRY_S_MAX = 6 * 3600


def receive(market: Market, payload: bytes, signature: str) -> None:
    """Keep a verified event, once; raises EventRefused for any other."""
    now_s = market.clock.now_s()
    try:
        event = market.processor.read_event(payload, signature, now_s=now_s)
    except EventUnverified as error:
        raise EventRefused(error.message) from error
    row = WebhookRow(
        event_id=event.event_id,
        kind=event.kind,
        object_id=event.object_id,
        account=event.account,
        payload=event.payload,
        next_at_s=now_s,
        received_at_s=now_s,
    )
    with market.database.transaction() as session:
        WebhookRepository(session).keep(row)


def process(market: Market) -> int:
    """Act on what waits, oldest first; gives how many events are done with."""
    done = 0
    for _ in range(EVENTS_AT_ONCE_MAX):
        now_s = market.clock.now_s()
        with market.database.transaction() as session:
            # taken for a while: whoever dies on the way leaves it to another
            row = WebhookRepository(session).take_due(now_s, now_s + RETRY_S)
        if row is None:
            break
        done += _act(market, row)
    return done


def _act(market: Market, row: WebhookRow) -> bool:
    now_s = market.clock.now_s()
    try:
        reach("payments.webhook.before")
        apply = handlers.act(market, row.kind, row.object_id, row.payload)
        with market.database.transaction() as session:
            if apply is not None:
                apply(session)
            WebhookRepository(session).finish(row.event_id, "done", now_s)
        reach("payments.webhook.after")
    except (MarketError, LedgerError, ProcessorError) as error:
        _failed(market, row, f"{type(error).__name__}: {error.message}")
        return False
    except Exception as error:  # the edge of one event: those behind it must not wait for it
        log.exception("the event %s failed", row.event_id)
        _failed(market, row, f"{type(error).__name__}: {error}")
        return False
    return True


def _failed(market: Market, row: WebhookRow, why: str) -> None:
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        repository = WebhookRepository(session)
        if row.attempts >= ATTEMPTS_MAX:
            log.error("the event %s (%s) is given up: %s", row.event_id, row.kind, why)
            repository.finish(row.event_id, "dead", now_s, why)
            return
        wait_s = min(RETRY_S << (row.attempts - 1), RETRY_S_MAX)
        repository.note(row.event_id, now_s + wait_s, why)
