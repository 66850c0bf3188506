"""The free router: routes over what the machines of one house announce."""

import secrets
from collections.abc import Callable, Iterable

from node.router.base import Availability, RoutePlan, Router, RouteRequest
from planning.routes import Candidate, find_route, missing_spans
from protocol.announcement import Announcement
from protocol.errors import NoRoute
from protocol.lease import ID_BYTES
from protocol.model import ModelManifest
from protocol.route import Hop, Route

__all__ = ["LanRouter"]


class LanRouter(Router):
    """Plans over the announcements that `announcements()` gives now; nothing is paid."""

    def __init__(self, announcements: Callable[[], Iterable[Announcement]]) -> None:
        self._announcements = announcements

    async def plan(self, request: RouteRequest) -> RoutePlan:
        manifest = request.manifest
        serving = [a for a in self._serving(manifest) if a.peer_id not in request.deny]
        legs = find_route(manifest.layers, [Candidate(key=a, span=a.span) for a in serving])
        if legs is None:
            missing = missing_spans(manifest.layers, [a.span for a in serving])
            raise NoRoute(manifest.name, f"nobody serves layers {', '.join(map(str, missing))}")
        chosen = [leg.candidate.key for leg in legs]
        hops = [Hop(a.peer_id, leg.span, a.addresses) for a, leg in zip(chosen, legs, strict=True)]
        return RoutePlan(
            session_id=secrets.token_bytes(ID_BYTES),
            route=Route.of(manifest.name, manifest.layers, hops, sealed=request.sealed),
            backends=tuple(a.backend for a in chosen),
        )

    async def availability(self, manifest: ModelManifest) -> Availability:
        missing = missing_spans(manifest.layers, [a.span for a in self._serving(manifest)])
        return Availability(available=not missing)

    async def session_over(self, session_id: bytes, api_key: str) -> None:
        """Nothing was set aside."""

    async def charged(self, session_id: bytes, api_key: str) -> None:
        return None

    def _serving(self, manifest: ModelManifest) -> list[Announcement]:
        wanted = manifest.manifest_hash
        return [a for a in self._announcements() if a.manifest_hash == wanted]
