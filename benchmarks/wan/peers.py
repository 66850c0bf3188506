"""Who is who in a bed: peer 0 is the head, peer k + 1 serves hop k."""

from typing import Final

from benchmarks.wan.namespace import PORT, front_of
from protocol.identity import KeyPair
from protocol.route import Hop, Route, Span
from transport.address import Address

__all__ = ["HEAD", "key_of", "route_of", "span_of"]

HEAD: Final = 0


def key_of(peer: int) -> KeyPair:
    """Known to all: nothing here is secret."""
    return KeyPair(bytes([peer + 1]) * 32)


def span_of(peer: int, hops: int, layers: int) -> Span:
    """The layers of a peer's hop: the model cut as evenly as it goes."""
    hop = peer - 1
    return Span(layers * hop // hops, layers * (hop + 1) // hops)


def route_of(model: str, layers: int, hops: int, *, sealed: bool) -> Route:
    """All hops in order, found at their fronts."""
    found = []
    for peer in range(1, hops + 1):
        peer_id = key_of(peer).peer_id
        address = str(Address(front_of(peer), PORT, peer_id))
        found.append(Hop(peer_id, span_of(peer, hops, layers), (address,)))
    return Route.of(model, layers, found, sealed=sealed)
