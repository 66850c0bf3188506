"""The free router: routes over what the machines of one house announce."""

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from node.router.base import Availability, RoutePlan, Router, RouteRequest
from planning.routes import Candidate, find_route, missing_spans
from protocol.announcement import Announcement
from protocol.errors import NoRoute
from protocol.identity import PeerId
from protocol.lease import ID_BYTES
from protocol.model import ModelManifest
from protocol.route import Hop, Route, Span

__all__ = ["LanRouter"]


class LanRouter(Router):
    """Plans over the announcements that `announcements()` gives now; nothing is paid.

    `standbys`: name for each hop another machine that could take its place, where there is one.
    """

    def __init__(
        self, announcements: Callable[[], Iterable[Announcement]], *, standbys: bool = True
    ) -> None:
        self._announcements = announcements
        self._names_standbys = standbys

    async def plan(self, request: RouteRequest) -> RoutePlan:
        return self._plan(request, secrets.token_bytes(ID_BYTES), epoch=0)

    async def replace(
        self,
        plan: RoutePlan,
        lost: frozenset[int],
        request: RouteRequest,
        *,
        rows: int,
        epoch: int | None = None,
    ) -> RoutePlan:
        epoch = plan.epoch + 1 if epoch is None else epoch
        if len(lost) == len(plan.route.hops):
            return self._plan(request, plan.session_id, epoch=epoch)
        places = {index: plan.route.hops[index].span for index in sorted(lost)}
        # who has failed is not asked again, even if his announcement has not run out yet
        used = {hop.peer_id for hop in plan.route.hops}
        free = [a for a in self._able(request) if a.peer_id not in used]
        warm = {index: hop.peer_id for index, hop in plan.standbys.items()}
        found = _fill(places, free, warm)
        if missing := [span for index, span in places.items() if index not in found]:
            raise _nobody(request, missing)
        hops, backends = list(plan.route.hops), list(plan.backends)
        for index, chosen in found.items():
            hops[index] = Hop(chosen.peer_id, places[index], chosen.addresses)
            backends[index] = chosen.backend
        return replace(
            plan,
            route=replace(plan.route, hops=tuple(hops)),
            backends=tuple(backends),
            epoch=epoch,
            standbys=self._standbys(hops, free, warm),
        )

    async def availability(self, manifest: ModelManifest) -> Availability:
        missing = missing_spans(manifest.layers, [a.span for a in self._serving(manifest)])
        return Availability(available=not missing)

    async def session_over(self, session_id: bytes, api_key: str) -> None:
        """Nothing was set aside."""

    async def charged(self, session_id: bytes, api_key: str) -> None:
        return None

    def _plan(self, request: RouteRequest, session_id: bytes, *, epoch: int) -> RoutePlan:
        manifest = request.manifest
        serving = self._able(request)
        legs = find_route(manifest.layers, [Candidate(key=a, span=a.span) for a in serving])
        if legs is None:
            raise _nobody(request, missing_spans(manifest.layers, [a.span for a in serving]))
        chosen = [leg.candidate.key for leg in legs]
        hops = [Hop(a.peer_id, leg.span, a.addresses) for a, leg in zip(chosen, legs, strict=True)]
        return RoutePlan(
            session_id=session_id,
            route=Route.of(manifest.name, manifest.layers, hops, sealed=request.sealed),
            backends=tuple(a.backend for a in chosen),
            epoch=epoch,
            standbys=self._standbys(hops, serving, {}),
        )

    def _standbys(
        self, hops: Sequence[Hop], serving: Sequence[Announcement], warm: Mapping[int, PeerId]
    ) -> dict[int, Hop]:
        """For as many hops as can be, another machine each; those warm already stay."""
        if not self._names_standbys:
            return {}
        places = {index: hop.span for index, hop in enumerate(hops)}
        used = {hop.peer_id for hop in hops}
        found = _fill(places, [a for a in serving if a.peer_id not in used], warm)
        return {
            index: Hop(found[index].peer_id, span, found[index].addresses)
            for index, span in places.items()
            if index in found
        }

    def _able(self, request: RouteRequest) -> list[Announcement]:
        return [a for a in self._serving(request.manifest) if a.peer_id not in request.deny]

    def _serving(self, manifest: ModelManifest) -> list[Announcement]:
        wanted = manifest.manifest_hash
        return [a for a in self._announcements() if a.manifest_hash == wanted]


def _fill(
    places: Mapping[int, Span], candidates: Collection[Announcement], warm: Mapping[int, PeerId]
) -> dict[int, Announcement]:
    """For as many places as can be, one candidate each that holds its whole span, none twice.

    A place prefers who is warm for it, then the very span, then the order given; but gives way
    where another place would stay empty (a matching along augmenting paths).
    """
    able = {index: _by_fitness(candidates, span, warm.get(index)) for index, span in places.items()}
    holder: dict[PeerId, int] = {}
    found: dict[int, Announcement] = {}

    def fill(index: int, tried: set[PeerId]) -> bool:
        for candidate in able[index]:
            if candidate.peer_id in tried:
                continue
            tried.add(candidate.peer_id)
            other = holder.get(candidate.peer_id)
            if other is None or fill(other, tried):
                holder[candidate.peer_id], found[index] = index, candidate
                return True
        return False

    for index in places:
        fill(index, set())
    return found


def _by_fitness(
    candidates: Collection[Announcement], span: Span, warm: PeerId | None
) -> list[Announcement]:
    holding = [a for a in candidates if a.span.contains(span)]
    return sorted(holding, key=lambda a: (a.peer_id != warm, a.span != span))


def _nobody(request: RouteRequest, missing: Sequence[Span]) -> NoRoute:
    return NoRoute(request.manifest.name, f"nobody serves layers {', '.join(map(str, missing))}")
