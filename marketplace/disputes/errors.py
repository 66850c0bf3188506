"""What can be wrong with a dispute.

MarketError
├─ DisputeUnknown 404       no dispute of yours has this id
├─ NothingToDispute 409     the lease has earned nothing that could be parked
├─ StatementTooLate 409     its time for statements is over, or it has been ruled on
├─ RulingTooEarly 409       somebody who is to lose money has not been heard yet
├─ TooManyClaims 429        unproven claims of one filer that nobody has ruled on yet
└─ TooManyStatements 429    of one author on one dispute
"""

from marketplace.errors import MarketError

__all__ = [
    "DisputeUnknown",
    "NothingToDispute",
    "RulingTooEarly",
    "StatementTooLate",
    "TooManyClaims",
    "TooManyStatements",
]


class DisputeUnknown(MarketError):
    """No dispute of the caller's has this id; somebody else's is not told."""

    status_code, code = 404, "dispute_unknown"

    def __init__(self) -> None:
        super().__init__("There is no such dispute.", hint="See GET /v1/disputes.")


class NothingToDispute(MarketError):
    """The lease is unknown, unsettled, or nothing of its pay is within reach."""

    status_code, code = 409, "nothing_to_dispute"


class StatementTooLate(MarketError):
    """The dispute takes no more statements."""

    status_code, code = 409, "statement_too_late"


class RulingTooEarly(MarketError):
    """A provider that is to lose money may still be heard."""

    status_code, code = 409, "ruling_too_early"


class TooManyClaims(MarketError):
    """One filer has claimed much that nobody has ruled on."""

    status_code, code = 429, "too_many_claims"


class TooManyStatements(MarketError):
    """One author has said enough on one dispute."""

    status_code, code = 429, "too_many_statements"
