"""Which processor moves the money: Stripe where a key for it is set, else the built-in test one.

Stripe's client takes half a second to import, which a marketplace without it need not spend.
"""

from typing import TYPE_CHECKING

from marketplace.config import MarketConfig
from marketplace.errors import MarketError
from marketplace.payments.simulated import SimulatedProcessor

if TYPE_CHECKING:
    from marketplace.payments.stripe_gateway import StripeProcessor

__all__ = ["choose_processor"]


def choose_processor(config: MarketConfig) -> "SimulatedProcessor | StripeProcessor":
    """Both a `Processor` and a `PayoutProcessor`. Raises MarketError where a setting is missing."""
    api_key = config.stripe_api_key.get_secret_value()
    if not api_key:
        return SimulatedProcessor()
    from marketplace.payments.stripe_gateway import StripeProcessor

    secret = config.stripe_webhook_secret.get_secret_value()
    if not secret:
        raise MarketError(
            "Stripe is in use without a secret for its webhooks.",
            hint="Set PIECEWORK_MARKET_STRIPE_WEBHOOK_SECRET.",
        )
    if not config.public_url.startswith(("https://", "http://")):
        raise MarketError(
            "Stripe is in use, but buyers could not come back from its pages.",
            hint="Set PIECEWORK_MARKET_PUBLIC_URL to where they reach this marketplace.",
        )
    return StripeProcessor(
        api_key,
        public_url=config.public_url,
        webhook_secret=secret,
        api_base=config.stripe_api_base,
    )
