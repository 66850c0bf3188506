"""What can be wrong with something that two people decide.

MarketError
├─ ApprovalUnknown 404
├─ TwoPeopleNeeded 403      who asked cannot also decide
└─ ApprovalOver 409         it was decided, withdrawn, or is too old
"""

from marketplace.errors import MarketError

__all__ = ["ApprovalOver", "ApprovalUnknown", "TwoPeopleNeeded"]


class ApprovalUnknown(MarketError):
    """No approval has that id."""

    status_code, code = 404, "approval_unknown"

    def __init__(self) -> None:
        super().__init__("There is no such approval.", hint="GET /v1/operations/approvals.")


class TwoPeopleNeeded(MarketError):
    """Who asked for it may withdraw it, and nothing more."""

    status_code, code = 403, "two_people_needed"

    def __init__(self) -> None:
        super().__init__(
            "You have asked for this yourself.", hint="Another operator has to decide it."
        )


class ApprovalOver(MarketError):
    """It was decided or withdrawn, or nobody decided in time."""

    status_code, code = 409, "approval_over"
