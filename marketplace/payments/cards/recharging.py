"""Auto-recharge: a saved card is charged when the balance falls below what its owner chose.

At most one charge is under way for an account, which a unique index says, and a calendar month
(UTC) has a ceiling. A charge is written down before the processor is asked. What it did not answer
is looked up before it is asked again, always under the same key; once the processor has forgotten
that key, two looks an hour apart that find nothing end it. A declined card turns auto-recharge off.
"""

import logging
import secrets
from datetime import UTC, datetime

from ledger.database import Session
from ledger.failpoint import reach
from marketplace.market import Market
from marketplace.payments import service
from marketplace.payments.cards.repository import BillingRepository, RechargeRepository
from marketplace.payments.models import RechargeRow
from marketplace.payments.processor import (
    OutcomeUnknown,
    ProcessorBusy,
    ProcessorRefused,
)
from marketplace.payments.records import Payment, PaymentStatus
from marketplace.payments.repository import TopupRepository
from marketplace.payments.risk import left_today_nanos
from marketplace.standing import service as standing

__all__ = ["apply_charge", "begin", "month_of", "recharge"]

log = logging.getLogger(__name__)

ACCOUNTS_AT_ONCE_MAX = 100
"""Of one query."""
CHARGES_AT_ONCE_MAX = 100
"""Of one turn, so that it ends within minutes whatever the processor does."""
RETRY_S = 60
"""Until a charge without an answer is looked at again; it doubles up to RETRY_S_MAX."""
RETRY_S_MAX = 3600
KEY_LIFE_S = 23 * 3600
"""The processor remembers our key for 24 hours; an hour is kept for clocks that differ."""
LOOKS_APART_S = 3600
"""Between the two looks that end a charge nobody knows of."""


def month_of(now_s: int) -> str:
    """`2026-11`, UTC."""
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m")


def recharge(market: Market) -> int:
    """Begin what is due, then ask for what is open; gives how many top-ups were credited."""
    _begin_all(market)
    paid = 0
    for _ in range(CHARGES_AT_ONCE_MAX):
        taken = _take(market)
        if taken is None:
            break
        paid += _charge(market, taken)
    return paid


def _begin_all(market: Market) -> None:
    """Every account that is due, page by page: those at their ceiling stay due, and in no way."""
    after = ""
    while True:
        with market.database.reading() as session:
            accounts = BillingRepository(session).due(after, ACCOUNTS_AT_ONCE_MAX)
        for account_id in accounts:
            with market.database.transaction() as session:
                is_limited = market.processor.name != "test"
                begin(session, account_id, now_s=market.clock.now_s(), is_limited=is_limited)
        if len(accounts) < ACCOUNTS_AT_ONCE_MAX:
            return
        after = accounts[-1]


def begin(
    session: Session, account_id: str, *, now_s: int, is_limited: bool = True
) -> bytes | None:
    """Write down a charge where the account wants one and may; gives its top-up's id.

    `is_limited`: what may be paid in within a day holds for it as for every top-up.
    """
    row = BillingRepository(session).lock(account_id)
    recharges = RechargeRepository(session)
    month = month_of(now_s)
    if not row.recharge_enabled or recharges.open_of(account_id) is not None:
        return None
    if not BillingRepository(session).is_due(account_id):
        return None
    if standing.is_frozen(session, account_id):
        return None
    if recharges.month_nanos(account_id, month) + row.amount_nanos > row.monthly_nanos_max:
        return None
    past = TopupRepository(session).history(account_id, now_s)
    if is_limited and row.amount_nanos > left_today_nanos(past, now_s=now_s):
        return None
    topup_id = secrets.token_bytes(16)
    service.open_topup(session, account_id, topup_id, row.amount_nanos, now_s=now_s, method="card")
    recharges.add(
        RechargeRow(
            topup_id=topup_id,
            account_id=account_id,
            month=month,
            amount_nanos=row.amount_nanos,
            card_id=row.card_id,
            next_at_s=now_s,
            created_at_s=now_s,
        )
    )
    return topup_id


def apply_charge(session: Session, payment: Payment, *, now_s: int) -> bool:
    """What the processor says of a charge: credited, failed, or neither yet; gives whether paid."""
    if payment.topup_id is None:
        return False
    recharges = RechargeRepository(session)
    row = recharges.find(payment.topup_id)
    if payment.status is PaymentStatus.SUCCEEDED:
        if row is not None:
            # before its top-up, as a decline does: who is told of both waits in no circle
            recharges.finish(payment.topup_id, "paid")
        service.apply_payment(session, payment, now_s=now_s)
        return True
    if payment.status is PaymentStatus.FAILED and row is not None:
        _decline(session, row, payment.failure or "failed", now_s=now_s)
    return False


def _take(market: Market) -> RechargeRow | None:
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        row = RechargeRepository(session).take_due(now_s, now_s + RETRY_S)
        if row is not None:
            wait_s = min(RETRY_S << min(row.attempts - 1, 8), RETRY_S_MAX)
            row.next_at_s = now_s + wait_s
    return row


def _charge(market: Market, row: RechargeRow) -> bool:
    """One charge, looked up first where it was asked for before; gives whether it is paid."""
    customer = _customer(market, row)
    try:
        found = _look_up(market, row, customer) if row.attempts > 1 else None
        if found is None:
            if market.clock.now_s() - row.created_at_s >= KEY_LIFE_S:
                _miss(market, row)
                return False
            reach("payments.recharge.before")
            found = market.processor.charge_card(
                row.topup_id, row.amount_nanos, customer=customer, card_id=row.card_id
            )
            reach("payments.recharge.after")
    except ProcessorRefused as error:
        with market.database.transaction() as session:
            _decline(session, row, error.code, now_s=market.clock.now_s())
        return False
    except (OutcomeUnknown, ProcessorBusy) as error:
        log.warning("recharge %s is not decided: %s", row.topup_id.hex(), error.message)
        return False
    with market.database.transaction() as session:
        return apply_charge(session, found, now_s=market.clock.now_s())


def _look_up(market: Market, row: RechargeRow, customer: str) -> Payment | None:
    """The payment that counts: one that is paid before one that failed. None: there is none."""
    found = market.processor.find_payments(row.topup_id, customer)
    order = (PaymentStatus.SUCCEEDED, PaymentStatus.PENDING, PaymentStatus.FAILED)
    return min(found, key=lambda payment: order.index(payment.status), default=None)


def _miss(market: Market, row: RechargeRow) -> None:
    """Nothing there and our key is forgotten: the second look in an hour that says so ends it."""
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        recharges = RechargeRepository(session)
        if row.missed_at_s is None:
            recharges.set(row.topup_id, {"missed_at_s": now_s, "next_at_s": now_s + LOOKS_APART_S})
        elif now_s - row.missed_at_s >= LOOKS_APART_S and recharges.finish(row.topup_id, "failed"):
            TopupRepository(session).set_payment(row.topup_id, {"failure": "never_charged"})


def _decline(session: Session, row: RechargeRow, reason: str, *, now_s: int) -> None:
    """The charge is over, and so is auto-recharge until its owner looks at it."""
    if not RechargeRepository(session).finish(row.topup_id, "failed"):
        return
    TopupRepository(session).set_payment(row.topup_id, {"failure": reason[:64]})
    billing = BillingRepository(session)
    if billing.lock(row.account_id).card_id == row.card_id:
        billing.set(
            row.account_id,
            {"recharge_enabled": False, "stopped_reason": reason[:64], "changed_at_s": now_s},
        )


def _customer(market: Market, row: RechargeRow) -> str:
    with market.database.reading() as session:
        billing = BillingRepository(session).get(row.account_id)
    return billing.customer if billing is not None else ""
