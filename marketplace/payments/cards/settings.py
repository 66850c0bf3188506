"""What the owner of an account chose for auto-recharge."""

from ledger.database import Session
from marketplace.payments.cards.recharging import month_of
from marketplace.payments.cards.repository import BillingRepository, RechargeRepository
from marketplace.payments.errors import AmountNotWhole, NoCard
from marketplace.payments.processor import Processor
from marketplace.payments.schemas import RechargeChoice, RechargeSchema

__all__ = ["choose", "show"]


def choose(
    session: Session, account_id: str, choice: RechargeChoice, processor: Processor, *, now_s: int
) -> RechargeSchema:
    """Turn it on with these numbers, or off. Raises NoCard, or AmountNotWhole."""
    repository = BillingRepository(session)
    row = repository.lock(account_id)
    if choice.enabled and not row.card_id:
        raise NoCard
    if choice.amount_nanos % processor.granularity_nanos:
        raise AmountNotWhole(processor.granularity_nanos)
    repository.set(
        account_id,
        {
            "recharge_enabled": choice.enabled,
            "threshold_nanos": choice.threshold_nanos,
            "amount_nanos": choice.amount_nanos,
            "monthly_nanos_max": choice.monthly_nanos_max,
            "stopped_reason": "",
            "changed_at_s": now_s,
        },
    )
    session.expire_all()
    return show(session, account_id, now_s=now_s)


def show(session: Session, account_id: str, *, now_s: int) -> RechargeSchema:
    """As it stands; all zero where nothing was chosen."""
    row = BillingRepository(session).get(account_id)
    recharges = RechargeRepository(session)
    return RechargeSchema(
        enabled=row.recharge_enabled if row else False,
        threshold_nanos=row.threshold_nanos if row else 0,
        amount_nanos=row.amount_nanos if row else 0,
        monthly_nanos_max=row.monthly_nanos_max if row else 0,
        charged_this_month_nanos=recharges.month_nanos(account_id, month_of(now_s)),
        is_charging=recharges.open_of(account_id) is not None,
        stopped_reason=row.stopped_reason if row else "",
    )
