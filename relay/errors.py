"""The relay's branch of the error tree.

RelayError
├─ ConfigInvalid                  the operator's settings cannot be
├─ RelayUnreachable               no relay answers where `piecework-relay status` asks
└─ RequestRefused(code, reason)   a peer asked for what it does not get; it is told the code
"""

from protocol.errors import PieceworkError
from protocol.relay_messages import RefusalCode

__all__ = ["ConfigInvalid", "RelayError", "RelayUnreachable", "RequestRefused", "limit_reached"]


class RelayError(PieceworkError):
    """Something a relay, or who runs it, has to know."""


class ConfigInvalid(RelayError):
    """A setting, the key file or an address to listen on cannot be."""


class RelayUnreachable(RelayError):
    """No relay answers at that address."""


class RequestRefused(RelayError):
    """Answered to the peer, counted and logged under `reason`: a limit's name, or a short word."""

    def __init__(self, reason: str, message: str, code: RefusalCode) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code


def limit_reached(
    limit: str, value: float, *, code: RefusalCode = RefusalCode.RESOURCE_LIMIT_EXCEEDED
) -> RequestRefused:
    """The refusal that names a limit of `resources`."""
    return RequestRefused(limit, f"The relay's limit {limit} ({value:g}) is reached.", code)
