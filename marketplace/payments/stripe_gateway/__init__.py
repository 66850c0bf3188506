"""Stripe, through its own client: the only place that imports it."""

from marketplace.payments.stripe_gateway.processor import StripeProcessor

__all__ = ["StripeProcessor"]
