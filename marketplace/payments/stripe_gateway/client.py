"""The one client, made so that we decide what is sent again: it never repeats a request itself."""

import stripe

__all__ = ["READING", "StripeClient", "keyed", "make_client"]

StripeClient = stripe.StripeClient
RequestOptions = stripe.RequestOptions

TIMEOUT_S = 30.0
"""Stripe answers most requests within seconds; a job that waits longer holds up those behind it."""
READ_RETRIES = 1
"""A look-up changes nothing, so the client may repeat it by itself."""

READING: RequestOptions = {"max_network_retries": READ_RETRIES}


def make_client(
    api_key: str, *, api_base: str = "", timeout_s: float = TIMEOUT_S
) -> stripe.StripeClient:
    """A client that may be used by many threads. `api_base`: empty for Stripe itself."""
    return stripe.StripeClient(
        api_key,
        base_addresses=(
            {"api": api_base, "connect": api_base, "files": api_base, "meter_events": api_base}
            if api_base
            else None
        ),
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=timeout_s),
    )


def keyed(idempotency_key: str) -> RequestOptions:
    """Options of a request that moves money: our key, and no repetition but ours."""
    return {"idempotency_key": idempotency_key, "max_network_retries": 0}
