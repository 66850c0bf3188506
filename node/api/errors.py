"""Errors as OpenAI's clients know them: `{"error": {message, type, param, code}}`, all four keys.

`problem_of` is the one place where an exception of ours becomes a status and a code. The stock SDK
retries 408, 409, 429 and every 5xx on its own, unless `x-should-retry: false` forbids it; it obeys
`Retry-After` up to two minutes. So money that only a payment brings is 402, and money that comes
back by itself 429. Nothing here shows a traceback, a path of this machine, or a key.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope
from typing_extensions import TypedDict

from node.engine.errors import ModelNotFound, OutOfKV, QueueFull
from node.errors import (
    KeyRefused,
    MarketRefused,
    MarketUnreachable,
    ModelUnknown,
    PaymentRequired,
    PromptInvalid,
    PromptTooLong,
)
from node.router.funds import FUNDS_IN_FLIGHT
from protocol.errors import (
    EngineError,
    ErrorCode,
    NoRoute,
    RemoteProtocolError,
    RouteInvalid,
    SessionError,
    VerificationError,
)

__all__ = [
    "SHUTTING_DOWN",
    "ApiError",
    "ErrorBody",
    "Problem",
    "invalid_key",
    "logged_problem",
    "model_not_found",
    "problem_of",
    "request_id_of",
    "unsupported_parameter",
    "without_retry",
]

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
"""Providers come and go within seconds; the SDK waits this long, twice, before it gives up."""
FUNDS_RETRY_AFTER_S = 1
"""A session that has ended is settled in about a second, and its money is free again."""

ErrorType = Literal[
    "invalid_request_error", "authentication_error", "billing_error", "rate_limit_error",
    "server_error",
]  # fmt: skip


class ErrorObject(TypedDict):
    """OpenAI's error object. `code` is a string: clients compare it, some cast it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every response with a status of 400 or more, and of a stream's last event."""

    error: ErrorObject


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told."""

    status: int
    code: str | None
    message: str
    type: ErrorType = "invalid_request_error"
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> ErrorBody:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, status_code=self.status, headers=dict(self.headers))


class ApiError(Exception):
    """A refusal of the API itself, before any head was asked."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


_RETRY_LATER = {"Retry-After": str(RETRY_AFTER_S)}
_NO_RETRY = {"x-should-retry": "false"}

SHUTTING_DOWN = Problem(
    503,
    "server_shutting_down",
    "This server is shutting down.",
    "server_error",
    headers=_RETRY_LATER,
)

_INTERNAL = Problem(
    500, "internal_error", "The server had an error while answering this request.", "server_error"
)


def unsupported_parameter(param: str, reason: str = "") -> ApiError:
    """A parameter we know and cannot honour: refused, because ignoring it would be a lie."""
    message = f"Unsupported parameter: '{param}' is not supported{reason}."
    return ApiError(Problem(400, "unsupported_parameter", message, param=param))


def invalid_key(message: str) -> Problem:
    headers = {"WWW-Authenticate": "Bearer"}
    return Problem(401, "invalid_api_key", message, "authentication_error", headers=headers)


def model_not_found(model: str) -> Problem:
    return Problem(404, "model_not_found", ModelUnknown(model).message, param="model")


def without_retry(problem: Problem) -> Problem:
    return replace(problem, headers={**problem.headers, **_NO_RETRY})


def request_id_of(scope: Scope) -> str:
    """The id that RequestMarks gave this request; '-' outside of it."""
    return str(scope.get("state", {}).get("request_id", "-"))


def logged_problem(error: BaseException, request_id: str) -> Problem:
    """`problem_of`, and a line in the log when the fault is on our side of the wire."""
    problem = problem_of(error)
    if isinstance(error, asyncio.CancelledError):
        return problem  # a client that left looks the same, and neither is a fault
    if problem.status == _INTERNAL.status:
        logger.error("request %s failed", request_id, exc_info=error)
    elif problem.status > _INTERNAL.status:
        logger.warning("request %s: %s: %s", request_id, problem.code, error)
    return problem


def problem_of(error: BaseException) -> Problem:
    """The problem an exception stands for; an unknown one is a plain 500 without its text."""
    match error:
        case ApiError(problem=problem):
            return problem
        case asyncio.CancelledError():
            return SHUTTING_DOWN
        case HTTPException():
            return _http_problem(error)
        case ModelUnknown():
            return model_not_found(error.model)
        case PromptTooLong():
            return Problem(400, "context_length_exceeded", str(error), param="messages")
        case PromptInvalid():
            return Problem(400, "invalid_prompt", str(error), param="messages")
        case MarketRefused() | MarketUnreachable():
            return _market_problem(error)
        case SessionError():
            return _session_problem(error)
        case EngineError():
            return _engine_problem(error)
        case RouteInvalid():
            return Problem(
                502, "route_invalid", "The route does not fit the model.", "server_error"
            )
        case RemoteProtocolError() | VerificationError():
            return Problem(502, "provider_error", "A provider broke the protocol.", "server_error")
        case _:
            return _INTERNAL


def _later(status: int, code: str, message: str) -> Problem:
    return Problem(status, code, message, "server_error", headers=_RETRY_LATER)


def _session_problem(error: SessionError) -> Problem:
    if isinstance(error, NoRoute):
        return _later(503, "no_route", str(error))
    match error.code:
        case ErrorCode.NO_CAPACITY:
            return _later(503, "overloaded", str(error))
        case ErrorCode.SHUTTING_DOWN:
            return _later(503, "provider_shutting_down", str(error))
        case ErrorCode.CONTEXT_TOO_LONG:
            return Problem(400, "context_length_exceeded", str(error), param="messages")
        case ErrorCode.TIMED_OUT:
            return Problem(504, "provider_timed_out", str(error), "server_error")
        case _:
            return Problem(502, "provider_failed", str(error), "server_error")


def _engine_problem(error: EngineError) -> Problem:
    """Engines speak of files and devices of this machine: none of that leaves it."""
    match error:
        case ModelNotFound():
            return Problem(404, "model_not_found", "The model is not here.", param="model")
        case OutOfKV() | QueueFull():
            return _later(503, "overloaded", "The engine is full.")
        case _:
            return Problem(500, "engine_failed", "The engine failed.", "server_error")


def _market_problem(error: MarketRefused | MarketUnreachable) -> Problem:
    if isinstance(error, MarketUnreachable):
        message = "The marketplace gives no answer that can be used."
        return _later(503, "marketplace_unreachable", message)
    if isinstance(error, KeyRefused):
        return invalid_key(str(error))
    if isinstance(error, PaymentRequired):
        return _payment_problem(error)
    if error.status == 429:
        return Problem(
            429, "rate_limit_exceeded", str(error), "rate_limit_error", headers=_RETRY_LATER
        )
    if 400 <= error.status < 500:
        return Problem(error.status, error.code, str(error))
    return Problem(502, "marketplace_failed", "The marketplace failed.", "server_error")


def _payment_problem(error: PaymentRequired) -> Problem:
    """By the marketplace's code: `insufficient_funds` and `key_limit`, where asking again is of no
    use before somebody has topped up or raised the limit, and money that other answers hold."""
    if error.code == FUNDS_IN_FLIGHT:
        headers = {"Retry-After": str(FUNDS_RETRY_AFTER_S)}
        return Problem(429, error.code, str(error), "rate_limit_error", headers=headers)
    # a 402 without a body of the marketplace's does not say whose money is lacking
    code = "payment_required" if error.code == "unknown" else error.code
    return Problem(402, code, str(error), "billing_error", headers=_NO_RETRY)


def _http_problem(error: HTTPException) -> Problem:
    """Starlette's own refusals: no such path, wrong method, a body that did not arrive."""
    codes = {
        400: "invalid_body",
        404: "unknown_url",
        405: "method_not_allowed",
        408: "timeout",
        413: "body_too_large",
    }
    return Problem(
        error.status_code,
        codes.get(error.status_code),
        error.detail,
        "invalid_request_error" if error.status_code < 500 else "server_error",
        headers=error.headers or {},
    )
