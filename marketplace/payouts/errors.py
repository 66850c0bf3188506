"""The branch of the error tree that belongs to payouts.

MarketError
├─ PayoutRefused 409       nothing can be paid out now, and why
├─ PayoutStateInvalid 409  a payout cannot go from the one state to the other
├─ CountryUnknown 400      two letters that no country has
├─ CountryFixed 409        the recipient's country cannot be another any more
├─ RecipientMissing 409    the account has not told the processor where its money goes
├─ RecipientRefused 409    the processor will not have this account, and says why
└─ ProcessorAway 503       the processor does not answer now
"""

from marketplace.errors import MarketError
from protocol.countries import COUNTRY_HINT
from protocol.money import Nanos

__all__ = [
    "CountryFixed",
    "CountryUnknown",
    "PayoutRefused",
    "PayoutStateInvalid",
    "ProcessorAway",
    "RecipientMissing",
    "RecipientRefused",
]


class PayoutRefused(MarketError):
    """Nothing was reserved; `reason` is a word for programs."""

    status_code, code = 409, "payout_refused"

    def __init__(
        self, reason: str, message: str, *, hint: str = "", payable_nanos: Nanos = 0
    ) -> None:
        super().__init__(
            message, hint=hint, details={"reason": reason, "payable_nanos": payable_nanos}
        )
        self.reason = reason


class PayoutStateInvalid(MarketError):
    """Somebody else moved the payout first, or the step is not in the table."""

    status_code, code = 409, "payout_state"

    def __init__(self, source: str, target: str) -> None:
        super().__init__(
            f"A payout that is {source} cannot become {target}.", hint="Read its state again."
        )


class CountryUnknown(MarketError):
    """Nobody is paid in no country; none is ever assumed."""

    status_code, code = 400, "country_unknown"

    def __init__(self, country: str) -> None:
        super().__init__(f"No country has the code '{country[:64]}'.", hint=COUNTRY_HINT)


class CountryFixed(MarketError):
    """The recipient is ready, or was paid, in the country it was made in."""

    status_code, code = 409, "country_fixed"

    def __init__(self, fixed: str, asked: str) -> None:
        super().__init__(
            f"This account is paid in {fixed}, and its recipient cannot move to {asked}.",
            hint=f"Go on with {fixed}, or be paid in {asked} by an account of its own.",
            details={"country": fixed},
        )


class RecipientMissing(MarketError):
    """No recipient yet, or one to which no money can go."""

    status_code, code = 409, "recipient_missing"

    def __init__(self, missing: tuple[str, ...] = ()) -> None:
        lacks = f" It still asks for: {', '.join(missing)}." if missing else ""
        super().__init__(
            f"The payment processor cannot pay this account yet.{lacks}",
            hint="POST /v1/payouts/recipient and finish what its page asks.",
        )


class RecipientRefused(MarketError):
    """The processor's own reason is passed on."""

    status_code, code = 409, "recipient_refused"

    def __init__(self, processor_code: str, message: str) -> None:
        super().__init__(
            f"The payment processor refused: {message[:500]}",
            hint="Correct what it names and try again.",
            details={"reason": processor_code[:64]},
        )


class ProcessorAway(MarketError):
    """Nothing is known to have happened; asking again is safe."""

    status_code, code = 503, "processor_away"

    def __init__(self) -> None:
        super().__init__("The payment processor does not answer.", hint="Try again in a minute.")
        self.headers["Retry-After"] = "60"
