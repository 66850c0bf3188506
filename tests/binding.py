"""The two steps of binding a circuit's side, for tests of whoever binds or is bound."""

from dataclasses import replace

from protocol.datagram import Bind, Bound
from relay.forwarder import Forwarder
from relay.usage import DropReason
from transport.udp.udp_socket import SocketAddress


def with_cookie(bind: Bind, bound: bytes) -> Bind:
    """The same again, with the cookie that it was answered: it was not taken, so it may be."""
    return replace(bind, cookie=Bound.decode(bound).cookie)


def bind_at(
    forwarder: Forwarder,
    bind: Bind,
    secret: bytes,
    source: SocketAddress,
    *,
    port: int = 0,
    now: float = 0.0,
) -> bytes | DropReason:
    """As a node at `source` does: asked for its cookie, and bound with it."""
    first = forwarder.bind(bind.encode(secret), source, port, now)
    if not isinstance(first, bytes):
        return first
    assert not Bound.decode(first).is_bound
    return forwarder.bind(with_cookie(bind, first).encode(secret), source, port, now)
