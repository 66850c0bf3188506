"""Why somebody cannot sign in, or may not do this though they have.

MarketError
├─ LoginInvalid 401        no web session, or it is over
├─ SignInFailed 401        address, password or code; which of them is not told
├─ CodeNeeded 401          the password was right and a one-time code is missing
├─ StepUpNeeded 403        signed in, but no code was shown lately
├─ OperatorOnly 403        for people who run this marketplace
├─ ForeignOrigin 403       another site's page sent this with our cookie
├─ TokenInvalid 404        a link that was used, is too old or never was
├─ AccountFull 409         the account has as many people as it may
├─ PasswordWeak 400        too short, or the address itself
├─ TooManyAttempts 429     tried too often; Retry-After
└─ Busy 503                too many passwords are being checked at once; Retry-After
"""

from marketplace.errors import MarketError

__all__ = [
    "AccountFull",
    "Busy",
    "CodeNeeded",
    "ForeignOrigin",
    "LoginInvalid",
    "OperatorOnly",
    "PasswordWeak",
    "SignInFailed",
    "StepUpNeeded",
    "TokenInvalid",
    "TooManyAttempts",
]


class LoginInvalid(MarketError):
    """No web session, or one that is over; which of them is not told."""

    status_code, code = 401, "login_invalid"

    def __init__(self) -> None:
        super().__init__("You are not signed in, or no longer.", hint="Sign in again.")
        self.headers["WWW-Authenticate"] = "Bearer"


class SignInFailed(MarketError):
    """Address, password or code do not fit; which of them is not told."""

    status_code, code = 401, "sign_in_failed"

    def __init__(self) -> None:
        super().__init__(
            "Address, password or code do not fit.",
            hint="Try again, or ask for a new password with POST /v1/passwords/forgotten.",
        )


class CodeNeeded(MarketError):
    """Address and password fit; this person has also asked for a one-time code."""

    status_code, code = 401, "code_needed"

    def __init__(self) -> None:
        super().__init__(
            "A one-time code is needed as well.", hint="Send it as 'code', with the password again."
        )


class StepUpNeeded(MarketError):
    """Signed in, but no one-time code was shown lately in this session."""

    status_code, code = 403, "code_needed"

    def __init__(self) -> None:
        super().__init__(
            "This needs a session in which a one-time code was shown lately.",
            hint="Enrol with POST /v1/me/totp, or show a code with POST /v1/logins/current/code.",
        )


class OperatorOnly(MarketError):
    """Only the people who run this marketplace may do this."""

    status_code, code = 403, "operator_only"

    def __init__(self) -> None:
        super().__init__(
            "Only an operator of this marketplace may do this.",
            hint="An operator is made with 'piecework-market operator add EMAIL'.",
        )


class ForeignOrigin(MarketError):
    """The cookie came with a request that no page of ours made."""

    status_code, code = 403, "foreign_origin"

    def __init__(self) -> None:
        super().__init__(
            "A page of another site sent this request.",
            hint="Programs send 'Authorization: Bearer …' and no cookie.",
        )


class TokenInvalid(MarketError):
    """The link was used, is too old, or never was."""

    status_code, code = 404, "token_invalid"

    def __init__(self) -> None:
        super().__init__("This link was used or is too old.", hint="Ask for a new one.")


class AccountFull(MarketError):
    """As many people belong to the account as may."""

    status_code, code = 409, "account_full"

    def __init__(self, members_max: int) -> None:
        super().__init__(
            f"An account has at most {members_max} people.",
            hint="Its owner can send somebody away first.",
        )


class PasswordWeak(MarketError):
    """Too easy to guess."""

    status_code, code = 400, "password_weak"


class TooManyAttempts(MarketError):
    """Tried too often; when to try again is in Retry-After."""

    status_code, code = 429, "too_many_attempts"

    def __init__(self, what: str, retry_after_s: int, limit_source: str) -> None:
        super().__init__(
            f"Too many {what}.",
            hint=f"Try again in {retry_after_s} s.",
            details={"limit_source": limit_source, "retry_after_s": retry_after_s},
        )
        self.headers["Retry-After"] = str(retry_after_s)


class Busy(MarketError):
    """As many passwords as this machine can check at once are being checked."""

    status_code, code = 503, "busy"

    def __init__(self) -> None:
        super().__init__("Too many people sign in at this moment.", hint="Try again in a second.")
        self.headers["Retry-After"] = "1"
