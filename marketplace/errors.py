"""The marketplace's branch of the error tree; each kind knows its HTTP status.

MarketError(status_code, code)
├─ Malformed 400               the request does not say what it must
├─ ContextTooLong 400          more tokens than the model was made for
├─ KeyInvalid 401              no such API key, or it was revoked
├─ RequestUnsigned 401         a node's signature is missing, wrong or too old
├─ RequestReplayed 401         a node's nonce has been used
├─ InsufficientFunds 402       the balance does not hold what is asked
├─ PriceTooHigh 402            the nearest route costs more than the buyer allows
├─ NotYours 403                the thing belongs to somebody else
├─ ScopeMissing 403            the API key may not do this
├─ ResaleForbidden 403         the model's licence forbids selling it
├─ ModelUnknown, QuoteUnknown, SessionUnknown, TopupUnknown, KeyUnknown 404
├─ QuoteExpired, Conflict 409  too late, or already answered otherwise
├─ BodyTooLarge 413
├─ DatabaseUnavailable 503     locked for too long, or its disk is full; nothing was written
└─ NoCapacity 503              nobody serves some layers now; Retry-After

On the wire: {"error": {"code", "message", "hint"}}, and `details` where numbers help a program.
"""

from collections.abc import Mapping, Sequence

from protocol.errors import PieceworkError
from protocol.money import Nanos, format_usd
from protocol.route import Span

__all__ = [
    "BodyTooLarge",
    "Conflict",
    "ContextTooLong",
    "DatabaseUnavailable",
    "InsufficientFunds",
    "KeyInvalid",
    "KeyUnknown",
    "Malformed",
    "MarketError",
    "ModelUnknown",
    "NoCapacity",
    "NotYours",
    "PriceTooHigh",
    "QuoteExpired",
    "QuoteUnknown",
    "RequestReplayed",
    "RequestUnsigned",
    "ResaleForbidden",
    "ScopeMissing",
    "SessionUnknown",
    "TopupUnknown",
]

RETRY_AFTER_S = 5
"""When a buyer may ask again for layers nobody serves: about as long as a node takes to renew."""

Detail = int | str | Sequence[str]


class MarketError(PieceworkError):
    """A request that cannot be served, and how to say so over HTTP."""

    status_code = 500
    code = "internal"

    def __init__(
        self, message: str, *, hint: str = "", details: Mapping[str, Detail] | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.details = dict(details or {})
        self.headers: dict[str, str] = {}

    def body(self) -> dict[str, object]:
        """The JSON that goes out."""
        return error_body(self.code, self.message, self.hint, self.details)


def error_body(
    code: str, message: str, hint: str = "", details: Mapping[str, Detail] | None = None
) -> dict[str, object]:
    """The one shape of every error the marketplace answers with."""
    error: dict[str, object] = {"code": code, "message": message, "hint": hint}
    if details:
        error["details"] = dict(details)
    return {"error": error}


class Malformed(MarketError):
    """The request does not say what it must."""

    status_code, code = 400, "malformed"


class ContextTooLong(MarketError):
    """Prompt and answer together are longer than the model was made for."""

    status_code, code = 400, "context_too_long"


class KeyInvalid(MarketError):
    """No API key, a wrong one, or one that was revoked; which of them is not told."""

    status_code, code = 401, "key_invalid"

    def __init__(self) -> None:
        super().__init__(
            "The API key is missing, wrong or revoked.",
            hint="Send 'Authorization: Bearer pw_live_…'.",
        )
        self.headers["WWW-Authenticate"] = "Bearer"


class RequestUnsigned(MarketError):
    """A node's signature over the request is missing, wrong or too old."""

    status_code, code = 401, "request_unsigned"


class RequestReplayed(MarketError):
    """The nonce has been used: this is a recording of an earlier request."""

    status_code, code = 401, "request_replayed"

    def __init__(self) -> None:
        super().__init__("This request was sent before.", hint="Sign each request anew.")


class InsufficientFunds(MarketError):
    """The balance does not hold what is asked; nothing was set aside."""

    status_code, code = 402, "insufficient_funds"

    def __init__(self, needed_nanos: Nanos, available_nanos: Nanos) -> None:
        self.needed_nanos = needed_nanos
        super().__init__(
            f"{format_usd(needed_nanos)} are needed and {format_usd(available_nanos)} available.",
            hint="Top up, or ask for fewer tokens.",
            details={"needed_nanos": needed_nanos, "available_nanos": available_nanos},
        )


class PriceTooHigh(MarketError):
    """The cheapest route costs more than the buyer allows."""

    status_code, code = 402, "max_price"

    def __init__(self, price_nanos: Nanos, max_nanos: Nanos) -> None:
        super().__init__(
            f"The nearest route costs up to {format_usd(price_nanos)}; "
            f"at most {format_usd(max_nanos)} are allowed.",
            hint="Raise amount_nanos_max, or ask for fewer tokens.",
            details={"amount_nanos": price_nanos, "amount_nanos_max": max_nanos},
        )


class NotYours(MarketError):
    """The thing belongs to somebody else."""

    status_code, code = 403, "not_yours"


class ScopeMissing(MarketError):
    """The API key is good, but not for this."""

    status_code, code = 403, "scope_missing"


class ResaleForbidden(MarketError):
    """The model's licence forbids selling what it does."""

    status_code, code = 403, "resale_forbidden"

    def __init__(self, model: str, licence: str) -> None:
        super().__init__(
            f"The licence of '{model}' ({licence}) does not allow it to be served for money.",
            hint="Serve it in your own house with 'piecework up'.",
        )


class ModelUnknown(MarketError):
    """No manifest of that name or hash is registered."""

    status_code, code = 404, "model_unknown"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"No model '{model[:128]}' is registered.", hint="GET /v1/models lists those that are."
        )


class QuoteUnknown(MarketError):
    """No quote has that id."""

    status_code, code = 404, "quote_unknown"


class SessionUnknown(MarketError):
    """No session has that id, or it is another account's."""

    status_code, code = 404, "session_unknown"


class TopupUnknown(MarketError):
    """No top-up has that id."""

    status_code, code = 404, "topup_unknown"


class KeyUnknown(MarketError):
    """No key of this account has that id."""

    status_code, code = 404, "key_unknown"


class QuoteExpired(MarketError):
    """The quote's time is over, or an offer it rests on is."""

    status_code, code = 409, "quote_expired"

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="Ask for a new quote.")


class Conflict(MarketError):
    """The same id was used before for something else."""

    status_code, code = 409, "conflict"


class BodyTooLarge(MarketError):
    """More bytes than this kind of request may have."""

    status_code, code = 413, "body_too_large"


class DatabaseUnavailable(MarketError):
    """The database is locked, full or away; nothing was written. The reason is in the log."""

    status_code, code = 503, "database_unavailable"

    def __init__(self) -> None:
        super().__init__("The marketplace's database does not answer.", hint="Try again later.")
        self.headers["Retry-After"] = "1"


class NoCapacity(MarketError):
    """Nobody serves some of the model's layers now."""

    status_code, code = 503, "no_capacity"

    def __init__(self, model: str, missing: Sequence[Span]) -> None:
        spans = [str(span) for span in missing]
        where = f"layers {', '.join(spans)}" if spans else "a whole route"
        super().__init__(
            f"Nobody offers {where} of '{model}' now.",
            hint=f"Try again in {RETRY_AFTER_S} s.",
            details={"missing_spans": spans},
        )
        self.headers["Retry-After"] = str(RETRY_AFTER_S)
