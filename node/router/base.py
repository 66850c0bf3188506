"""A router turns a request into a plan: a route, and the right to use it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.identity import KeyPair, PeerId
from protocol.lease import Lease
from protocol.model import ModelManifest
from protocol.money import Nanos
from protocol.route import Hop, Route
from protocol.tensor import WireDtype

__all__ = [
    "INSTALMENT_TOKENS",
    "Availability",
    "RoutePlan",
    "RouteRequest",
    "Router",
    "smaller_instalments",
]


INSTALMENT_TOKENS = 256
"""What of an answer is paid for at once. At 10 tokens a second it lasts 25 s, so its successor is
asked for 12 s ahead and costs one request in as long; and an answer that ends early has held an
eighth of what 2048 tokens would."""


def smaller_instalments(tokens: int) -> tuple[int, ...]:
    """What to try where the balance does not cover `tokens`, down to a single one: a few requests
    more find the last token that is paid for."""
    smaller = []
    while tokens > 1:
        tokens = max(tokens // 4, 1)
        smaller.append(tokens)
    return tuple(smaller)


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
    drafted_tokens: int = 0
    """Rows that may run in vain for speed's sake, where rows are paid for."""
    funded_tokens: int | None = None
    """Of the answer: pay for so many at first, and for more as it comes; None: for all of it."""

    @property
    def capacity_tokens(self) -> int:
        """Rows the session may have at each hop."""
        return self.prompt_tokens + self.max_tokens


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """A route that may be opened now. Leases, their envelopes and the key only where it is paid."""

    session_id: bytes
    route: Route
    backends: tuple[str, ...]
    leases: tuple[Lease, ...] = ()
    """One a hop, in the route's order; a hop that stayed through a repair keeps its old one."""
    lease_envelopes: tuple[bytes, ...] = ()
    payer_key: KeyPair | None = None
    epoch: int = 0
    """Of the session; above 0 the route is that of a repair."""
    spare_rows: int | None = None
    """Rows that may run in vain; None: any number, for nobody pays for them."""
    funded_rows: int | None = None
    """Rows of the session that every lease pays for; None: all."""
    standbys: Mapping[int, Hop] = field(default_factory=dict)
    """By hop index, a peer off the route that can be kept warm for that hop. Free routes only."""


class Router(ABC):
    """Finds routes. One per head."""

    @abstractmethod
    async def plan(self, request: RouteRequest) -> RoutePlan:
        """Raises NoRoute, MarketRefused (and its kinds) or MarketUnreachable."""

    @abstractmethod
    async def replace(
        self,
        plan: RoutePlan,
        lost: frozenset[int],
        request: RouteRequest,
        *,
        rows: int,
        epoch: int | None = None,
    ) -> RoutePlan:
        """The same session at a later epoch, without the hops at the indexes `lost`.

        The same route with others in their places; or, where `lost` is all of them, a wholly new
        route. `rows`: how many the session has; whoever is new is sent them again. `epoch`: the one
        after the plan's where none is given. `request` is that of `plan`, its `deny` naming those
        that must not come back. Raises NoRoute, MarketRefused (and its kinds) or MarketUnreachable:
        after this last one what was asked may have been granted, so ask for the very same again, or
        for other things at a later epoch.
        """

    async def extend(
        self, plan: RoutePlan, request: RouteRequest, *, funded_tokens: int, drafted_tokens: int
    ) -> RoutePlan:
        """The plan with leases that pay for so much of the answer in all, and rows run in vain.

        The same again gives the same. Where the session is at another epoch than `plan` it is
        refused with MarketRefused: then ask again with the plan as it is. A free route is funded
        whole. Raises PaymentRequired where the money is not there, MarketRefused or
        MarketUnreachable.
        """
        return plan

    @abstractmethod
    async def availability(self, manifest: ModelManifest) -> Availability: ...

    @abstractmethod
    async def session_over(self, session_id: bytes, api_key: str) -> None:
        """The session has ended, well or badly; what was set aside for it may be settled."""

    @abstractmethod
    async def charged(self, session_id: bytes, api_key: str) -> tuple[Nanos, bool] | None:
        """What it cost and whether that is settled; None where nothing is paid."""
