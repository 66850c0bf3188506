"""A router turns a request into a plan: a route, and the right to use it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from protocol.identity import KeyPair, PeerId
from protocol.lease import Lease
from protocol.model import ModelManifest
from protocol.money import Nanos
from protocol.route import Route
from protocol.tensor import WireDtype

__all__ = ["Availability", "RoutePlan", "RouteRequest", "Router"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a model's layers are all served now, and the cheapest price; None where free."""

    available: bool
    prompt_nanos_per_million_tokens: Nanos | None = None
    completion_nanos_per_million_tokens: Nanos | None = None


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What a session will need. Tokens bound the work; the model is named by its manifest."""

    manifest: ModelManifest
    prompt_tokens: int
    max_tokens: int
    wire_dtype: WireDtype
    sealed: bool
    api_key: str
    deny: tuple[PeerId, ...] = ()
    """Peers that have just failed us."""

    @property
    def capacity_tokens(self) -> int:
        return self.prompt_tokens + self.max_tokens


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """A route that may be opened now. Leases, their envelopes and the key only where it is paid."""

    session_id: bytes
    route: Route
    backends: tuple[str, ...]
    leases: tuple[Lease, ...] = ()
    lease_envelopes: tuple[bytes, ...] = ()
    payer_key: KeyPair | None = None


class Router(ABC):
    """Finds routes. One per head."""

    @abstractmethod
    async def plan(self, request: RouteRequest) -> RoutePlan:
        """Raises NoRoute, MarketRefused (and its kinds) or MarketUnreachable."""

    @abstractmethod
    async def availability(self, manifest: ModelManifest) -> Availability: ...

    @abstractmethod
    async def session_over(self, session_id: bytes, api_key: str) -> None:
        """The session has ended, well or badly; what was set aside for it may be settled."""

    @abstractmethod
    async def charged(self, session_id: bytes, api_key: str) -> tuple[Nanos, bool] | None:
        """What it cost and whether that is settled; None where nothing is paid."""
