"""What the fake answers where Stripe would refuse: a status, a type, a code and words."""

from typing import Any

__all__ = ["Refused", "invalid", "missing"]


class Refused(Exception):
    """A request that fails. `stored`: its reply is kept under its idempotency key, as Stripe does

    for every request that began to execute; one that fails validation leaves nothing behind.
    """

    def __init__(
        self,
        status: int,
        type_: str,
        code: str,
        message: str,
        *,
        stored: bool = False,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.stored = stored
        self.body = {"error": {"type": type_, "code": code, "message": message, **details}}


def invalid(message: str, *, code: str = "parameter_invalid", param: str = "") -> Refused:
    """A parameter that cannot be."""
    details = {"param": param} if param else {}
    return Refused(400, "invalid_request_error", code, message, **details)


def missing(kind: str, object_id: str) -> Refused:
    """No such object."""
    message = f"No such {kind}: '{object_id}'"
    return Refused(404, "invalid_request_error", "resource_missing", message, param="id")
