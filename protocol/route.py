"""Spans, hops and routes: how a model is cut and put together again.

A route's hops tile [0, layers) exactly, in order; this is checked where a Route is made, so that
whoever holds one may rely on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.errors import RemoteProtocolError, RouteInvalid
from protocol.identity import PeerId
from protocol.limits import HOPS_MAX, LAYERS_MAX

__all__ = ["Hop", "Route", "Span"]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Half-open range [start, end) of layers. Empty only for a shard that is all ends."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= LAYERS_MAX:
            raise RemoteProtocolError(f"[{self.start}, {self.end}) is not a span of layers.")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    @classmethod
    def from_text(cls, text: str) -> "Span":
        """Parse `start:end`."""
        start, separator, end = text.partition(":")
        if not (separator and start.isdecimal() and end.isdecimal()):
            raise RemoteProtocolError(f"'{text[:32]}' is not a span.", hint="Write start:end.")
        return cls(int(start), int(end))

    def contains(self, other: "Span") -> bool:
        return self.start <= other.start and other.end <= self.end


@dataclass(frozen=True, slots=True)
class Hop:
    """One provider's span in a route, and where to find it (multiaddr texts)."""

    peer_id: PeerId
    span: Span
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """Ordered hops whose spans tile [0, layers) exactly. `sealed`: the head holds the ends."""

    model: str
    layers: int
    sealed: bool
    hops: tuple[Hop, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.hops) <= HOPS_MAX:
            raise RouteInvalid(f"A route has between 1 and {HOPS_MAX} hops.")
        position = 0
        for index, hop in enumerate(self.hops):
            if hop.span.start != position or len(hop.span) == 0:
                raise RouteInvalid(
                    f"Hop {index} serves layers {hop.span}, but layer {position} comes next."
                )
            position = hop.span.end
        if position != self.layers:
            raise RouteInvalid(f"The hops end at layer {position} of {self.layers}.")

    @classmethod
    def of(cls, model: str, layers: int, hops: Sequence[Hop], *, sealed: bool = True) -> "Route":
        return cls(model=model, layers=layers, sealed=sealed, hops=tuple(hops))
