"""The live index of offers, and the search for a route, or for a part of one, among them.

In memory, rebuilt from the database at start; a change is put here only after it is committed, and
what other processes of the marketplace commit follows within a second.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from marketplace.assignment import assign
from marketplace.pricing import WorkPlan, hop_cost, layer_cost, penalty_cost
from planning.routes import Candidate, Leg, Weights, find_route
from protocol.identity import PeerId
from protocol.offer import Offer
from protocol.route import Span

__all__ = ["OfferIndex", "RoutedHop", "search_replacements", "search_route"]


@dataclass(frozen=True, slots=True)
class RoutedHop:
    """One hop of a found route: whose offer, and which part of its span."""

    offer: Offer
    span: Span


class OfferIndex:
    """Each provider's newest offer, by model. Safe to use from many threads."""

    def __init__(self) -> None:
        self.followed_to_s = 0
        """What was committed until then, in unix seconds, is here."""
        self.version = 0
        """Grows with every change, so that a search can tell whether another would see more."""
        self._lock = threading.Lock()
        self._by_provider: dict[PeerId, Offer] = {}
        self._by_manifest: dict[bytes, dict[PeerId, Offer]] = {}

    def put(self, offer: Offer) -> None:
        """Take the offer unless a newer one of its provider is here."""
        with self._lock:
            known = self._by_provider.get(offer.provider)
            if known is not None:
                if known.sequence >= offer.sequence:
                    return
                del self._by_manifest[known.manifest_hash][offer.provider]
            self.version += 1
            self._by_provider[offer.provider] = offer
            self._by_manifest.setdefault(offer.manifest_hash, {})[offer.provider] = offer

    def remove(self, provider: PeerId, *, up_to: int | None = None) -> bool:
        """Drop the provider's offer, unless it is of a later sequence; whether one was there."""
        with self._lock:
            known = self._by_provider.get(provider)
            if known is None or (up_to is not None and known.sequence > up_to):
                return False
            self._remove(provider)
            return True

    def sequence_of(self, provider: PeerId) -> int:
        """Of the provider's offer here; -1 where there is none."""
        with self._lock:
            known = self._by_provider.get(provider)
        return -1 if known is None else known.sequence

    def get(self, provider: PeerId, now_s: float) -> Offer | None:
        """The provider's offer, if it is alive."""
        with self._lock:
            offer = self._by_provider.get(provider)
        return offer if offer is not None and offer.expires_at_s > now_s else None

    def of_model(self, manifest_hash: bytes, now_s: float) -> list[Offer]:
        """Living offers of one model, in the order of their providers."""
        with self._lock:
            offers = list(self._by_manifest.get(manifest_hash, {}).values())
        return _alive(offers, now_s)

    def all(self, now_s: float) -> list[Offer]:
        """Every living offer, in the order of their providers."""
        with self._lock:
            offers = list(self._by_provider.values())
        return _alive(offers, now_s)

    def forget_expired(self, now_s: float) -> None:
        with self._lock:
            expired = [p for p, offer in self._by_provider.items() if offer.expires_at_s <= now_s]
            for provider in expired:
                self._remove(provider)

    def _remove(self, provider: PeerId) -> None:
        offer = self._by_provider.pop(provider, None)
        if offer is None:
            return
        self.version += 1
        offers = self._by_manifest[offer.manifest_hash]
        del offers[provider]
        if not offers:
            del self._by_manifest[offer.manifest_hash]


def search_route(
    offers: Iterable[Offer],
    plan: WorkPlan,
    *,
    open_sessions: Mapping[PeerId, int] | None = None,
) -> list[RoutedHop] | None:
    """The cheapest route for `plan`, or None. `open_sessions`: leased and not yet over.

    A provider whose KV could never hold the session is left out. A busy one is only dearer: its
    own admission knows better than we do what still fits, and ties go to the idle.
    """
    busy = open_sessions or {}
    unit = penalty_cost(plan)
    candidates = [
        Candidate(
            key=offer,
            span=offer.span,
            layer_cost=layer_cost(offer.rates, plan),
            hop_cost=_hop_cost(offer, plan, busy),
        )
        for offer in offers
        if offer.kv_tokens >= plan.tokens
    ]
    route: list[Leg[Offer]] | None = find_route(plan.layers, candidates, Weights(hop_penalty=unit))
    return None if route is None else [RoutedHop(leg.candidate.key, leg.span) for leg in route]


def search_replacements(
    offers: Sequence[Offer],
    spans: Sequence[Span],
    plan: WorkPlan,
    *,
    open_sessions: Mapping[PeerId, int] | None = None,
) -> list[Offer | None]:
    """For each span one offer that holds all of it, none twice, at the least cost of all.

    Where nobody is left for a span it is None; the others are then not the cheapest.
    """
    busy = open_sessions or {}
    costs: list[dict[int, int]] = [{} for _ in spans]
    for number, offer in enumerate(offers):
        for span, cost in zip(spans, costs, strict=True):
            if offer.span.contains(span):
                layers = len(span) * layer_cost(offer.rates, plan)
                cost[number] = layers + _hop_cost(offer, plan, busy)
    return [None if number is None else offers[number] for number in assign(costs)]


def _hop_cost(offer: Offer, plan: WorkPlan, busy: Mapping[PeerId, int]) -> int:
    """What a hop costs however few its layers; a busy provider's is dearer."""
    load = penalty_cost(plan) * busy.get(offer.provider, 0) // offer.sessions_max
    return hop_cost(offer.rates, plan) + load


def _alive(offers: list[Offer], now_s: float) -> list[Offer]:
    return sorted(
        (offer for offer in offers if offer.expires_at_s > now_s), key=lambda o: o.provider
    )
