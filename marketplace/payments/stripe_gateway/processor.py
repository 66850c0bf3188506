"""Stripe as one processor, both ways: money in and money out."""

from marketplace.payments.stripe_gateway.charging import StripeCharging
from marketplace.payments.stripe_gateway.client import TIMEOUT_S, make_client
from marketplace.payments.stripe_gateway.payouts import StripePayouts
from marketplace.payments.stripe_gateway.returning import StripeReturning

__all__ = ["StripeProcessor"]


class StripeProcessor(StripeCharging, StripeReturning, StripePayouts):
    """`Processor` and `PayoutProcessor` over one account at Stripe; may be used by many threads."""

    name = "stripe"

    def __init__(
        self,
        api_key: str,
        *,
        public_url: str,
        webhook_secret: str = "",
        api_base: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        client = make_client(api_key, api_base=api_base, timeout_s=timeout_s)
        base_url = public_url.rstrip("/")
        StripeCharging.__init__(self, client, base_url)
        StripeReturning.__init__(self, client, webhook_secret)
        StripePayouts.__init__(self, client, f"{base_url}/payouts")
