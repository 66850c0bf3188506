"""A router over one ring's providers: routes from those in service, places filled by spares."""

import dataclasses
import time

from node.router.base import Availability, RoutePlan, Router
from protocol.envelope import seal
from protocol.errors import NoRoute
from protocol.identity import KeyPair
from protocol.route import Hop, Route


class RingRouter(Router):
    """`spares[span]` lists who may take a place; a paid ring's replacements get leases."""

    def __init__(self, ring) -> None:
        self.ring = ring
        self.spares: dict = {}
        self.asked: list = []

    async def plan(self, request):
        return self.ring.plan(tokens_max=request.capacity_tokens)

    async def replace(self, plan, lost, request, *, rows, epoch=None):
        self.asked.append((sorted(lost), rows))
        hops = list(plan.route.hops)
        for index in lost:
            hops[index] = self._take(hops[index].span, request.deny)
        route = Route.of(plan.route.model, plan.route.layers, hops, sealed=plan.route.sealed)
        new = dataclasses.replace(plan, route=route, epoch=plan.epoch + 1, standbys={})
        return self._lease(new, lost) if plan.leases else new

    def _take(self, span, denied) -> Hop:
        for provider in self.spares.get(span, []):
            if provider.key.peer_id not in denied:
                self.spares[span].remove(provider)
                return Hop(provider.key.peer_id, span, tuple(map(str, provider.host.addresses)))
        raise NoRoute("fake/model", f"nobody serves layers {span}")

    def _lease(self, plan: RoutePlan, lost) -> RoutePlan:
        leases, envelopes = list(plan.leases), list(plan.lease_envelopes)
        for index in lost:
            lease = self.ring.lease(
                plan.route, index, plan.session_id, plan.payer_key, 400, time.time()
            )
            leases[index] = dataclasses.replace(lease, lease_id=KeyPair.generate().seed[:16])
            envelopes[index] = seal(leases[index], self.ring.market).encode()
        return dataclasses.replace(plan, leases=tuple(leases), lease_envelopes=tuple(envelopes))

    async def availability(self, manifest):
        return Availability(available=True)

    async def session_over(self, session_id, api_key):
        """Nothing is held here."""

    async def charged(self, session_id, api_key):
        return None
