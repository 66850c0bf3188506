"""Errors of `leases`."""

from marketplace.errors import MarketError
from protocol.money import Nanos, format_usd

__all__ = ["FundsInFlight"]

RETRY_AFTER_S = 1
"""A session that ends is settled within its window; asking more often finds nothing new."""


class FundsInFlight(MarketError):
    """The balance covers it, but other sessions of the buyer hold what is missing for now.

    They are charged for what they use; the rest comes back when they end.
    """

    status_code, code = 402, "funds_in_flight"

    def __init__(self, needed_nanos: Nanos, available_nanos: Nanos, held_nanos: Nanos) -> None:
        super().__init__(
            f"{format_usd(needed_nanos)} are needed, {format_usd(available_nanos)} available, and "
            f"{format_usd(held_nanos)} held by sessions under way.",
            hint=f"Try again in {RETRY_AFTER_S} s, when some of them have ended.",
            details={
                "needed_nanos": needed_nanos,
                "available_nanos": available_nanos,
                "held_nanos": held_nanos,
            },
        )
        self.headers["Retry-After"] = str(RETRY_AFTER_S)
