"""What can be wrong with a question about usage.

MarketError
└─ PeriodInvalid 400    the dates are no period, or too long a one
"""

from marketplace.errors import MarketError

__all__ = ["PeriodInvalid"]


class PeriodInvalid(MarketError):
    """The dates are no period of at most a year."""

    status_code, code = 400, "period_invalid"
