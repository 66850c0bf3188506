"""Why a key that is good may not do this now. `details.limit_source` names the limit.

MarketError
├─ KeyBudgetSpent 402     limit_source key_spend: what it may spend in this period is spent or held
└─ KeyBusy 429            limit_source key_parallel: as many sessions are open as it may have
   (and users.errors.TooManyAttempts 429 with limit_source key_rpm)
"""

from marketplace.errors import MarketError
from protocol.money import Nanos, format_usd

__all__ = ["KeyBudgetSpent", "KeyBusy"]

RETRY_AFTER_S = 5
"""An answer takes seconds; which of them ends first is not known."""


class KeyBudgetSpent(MarketError):
    """The account could pay, but this key may not spend so much."""

    status_code, code = 402, "key_limit"

    def __init__(
        self, needed_nanos: Nanos, available_nanos: Nanos, resets_at_s: int | None
    ) -> None:
        details: dict[str, int | str] = {
            "limit_source": "key_spend",
            "needed_nanos": needed_nanos,
            "available_nanos": available_nanos,
        }
        if resets_at_s is not None:
            details["resets_at_s"] = resets_at_s
        super().__init__(
            f"This key may spend {format_usd(available_nanos)} more in this period, "
            f"and {format_usd(needed_nanos)} are needed.",
            hint="Raise the key's limit, or use another key.",
            details=details,
        )


class KeyBusy(MarketError):
    """The key has as many sessions open as it may."""

    status_code, code = 429, "key_busy"

    def __init__(self, parallel_max: int) -> None:
        super().__init__(
            f"This key may have {parallel_max} sessions open at once, and has.",
            hint="Wait until one ends, or raise the key's limit.",
            details={"limit_source": "key_parallel", "parallel_max": parallel_max},
        )
        self.headers["Retry-After"] = str(RETRY_AFTER_S)
