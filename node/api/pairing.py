"""Who may use a private node's API: this machine's own programs, and whoever shows the token.

A request counts as this machine's own when it comes from loopback *and* names a loopback host: a
web page that has its name resolve to 127.0.0.1 (DNS rebinding) comes from loopback too, but under
its own name. Everything else needs `Authorization: Bearer <pairing token>`.
"""

import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from node.api.errors import invalid_key

__all__ = ["PairingGate"]


class PairingGate:
    """401 for a request that is neither this machine's own nor paired. All routes alike."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_own(scope) or self._is_paired(scope):
            await self._app(scope, receive, send)
            return
        problem = invalid_key(
            "This node answers paired clients only: send its pairing token, which it printed when "
            "it started, as 'Authorization: Bearer <token>'."
        )
        await problem.response()(scope, receive, send)

    def _is_paired(self, scope: Scope) -> bool:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        shown = token.strip().encode("utf-8", "replace")
        return scheme.lower() == "bearer" and hmac.compare_digest(shown, self._token)


def _is_own(scope: Scope) -> bool:
    client = scope.get("client")
    return client is not None and _is_loopback(client[0]) and _is_loopback(_host_of(scope))


def _host_of(scope: Scope) -> str:
    """The name in the Host header, without its port and brackets."""
    host = Headers(scope=scope).get("host", "")
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
