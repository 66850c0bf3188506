"""Errors of `quotes`."""

from marketplace.errors import MarketError

__all__ = ["ChoiceForbidden"]


class ChoiceForbidden(MarketError):
    """The buyer may not yet say which providers serve it: stolen money could be steered so."""

    status_code, code = 403, "choice_forbidden"

    def __init__(self) -> None:
        super().__init__(
            "This account cannot choose its providers yet.",
            hint="Leave 'allow' out, or verify the account by a top-up that has stood for a while.",
        )
