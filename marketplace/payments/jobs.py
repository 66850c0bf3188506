"""The jobs of `payments`; each may run in several processes at once."""

from collections.abc import Sequence

from marketplace.payments.cards.recharging import recharge
from marketplace.payments.inbox.service import process
from marketplace.payments.reconciling.service import reconcile_daily
from marketplace.payments.refunds.service import send
from marketplace.worker import Job

__all__ = ["PAYMENT_JOBS"]

WEBHOOKS_EVERY_S = 1
"""A buyer who has paid waits for it."""
RECHARGE_EVERY_S = 15
"""Between a balance that runs low and one that is empty lie minutes."""
REFUNDS_EVERY_S = 15
RECONCILE_EVERY_S = 600
"""How often it is looked whether a day has passed."""

PAYMENT_JOBS: Sequence[Job] = (
    Job("webhooks", lambda _: WEBHOOKS_EVERY_S, process),
    Job("recharge", lambda _: RECHARGE_EVERY_S, recharge),
    Job("refunds", lambda _: REFUNDS_EVERY_S, send),
    Job("reconcile", lambda _: RECONCILE_EVERY_S, reconcile_daily),
)
