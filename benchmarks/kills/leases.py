"""A router that leases what it plans, with a market's key of its own: paid routes, no marketplace.

One lease a hop, as tests/flows/ring.py makes them. On repair survivors keep theirs, and each
replacement gets one of the same session, signed over its real neighbours.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from node.router.base import RoutePlan, RouteRequest
from node.router.lan import LanRouter
from protocol.announcement import Announcement
from protocol.envelope import seal
from protocol.identity import KeyPair, PeerId
from protocol.lease import ID_BYTES, Lease
from protocol.money import Rates, work_bound
from protocol.route import Hop

__all__ = ["LeaseRouter"]

RATES: Final = Rates(1_000_000, 4_000_000, 50_000)
WINDOW_TOKENS: Final = 8
CREDIT_WINDOWS: Final = 4
LEASED_FOR_S: Final = 60
SETTLED_WITHIN_S: Final = 600
REPLAYS_MAX: Final = 4
"""How often over a lease's work may cover the answer's rows: replays, and drafts in vain."""


class LeaseRouter(LanRouter):
    """`on_lease` is told of every lease that is signed."""

    def __init__(
        self,
        announcements: Callable[[], Iterable[Announcement]],
        market: KeyPair,
        head: PeerId,
        on_lease: Callable[[Lease], None],
    ) -> None:
        super().__init__(announcements, standbys=False)
        self._market = market
        self._head = head
        self._on_lease = on_lease

    async def plan(self, request: RouteRequest) -> RoutePlan:
        plan = await super().plan(request)
        payer = KeyPair.generate()
        leases = [
            self._lease(plan.session_id, plan.route.hops, index, payer, request)
            for index in range(len(plan.route.hops))
        ]
        return self._with(plan, leases, payer)

    async def replace(
        self,
        plan: RoutePlan,
        lost: frozenset[int],
        request: RouteRequest,
        *,
        rows: int,
        epoch: int | None = None,
    ) -> RoutePlan:
        found = await super().replace(plan, lost, request, rows=rows, epoch=epoch)
        assert plan.payer_key is not None
        hops = found.route.hops
        leases = [
            self._lease(found.session_id, hops, index, plan.payer_key, request)
            if index in lost or len(lost) == len(plan.route.hops)
            else plan.leases[index]
            for index in range(len(hops))
        ]
        return self._with(found, leases, plan.payer_key)

    def _with(self, plan: RoutePlan, leases: Sequence[Lease], payer: KeyPair) -> RoutePlan:
        envelopes = tuple(seal(lease, self._market).encode() for lease in leases)
        return replace(plan, leases=tuple(leases), lease_envelopes=envelopes, payer_key=payer)

    def _lease(
        self,
        session_id: bytes,
        hops: Sequence[Hop],
        index: int,
        payer: KeyPair,
        request: RouteRequest,
    ) -> Lease:
        hop, manifest, now_s = hops[index], request.manifest, int(time.time())
        lease = Lease(
            lease_id=secrets.token_bytes(ID_BYTES),
            session_id=session_id,
            hold_id=session_id,
            hop_index=index,
            hop_count=len(hops),
            payer_key=payer.peer_id.public_key,
            provider=hop.peer_id,
            head=self._head,
            previous=hops[index - 1].peer_id if index else self._head,
            next=hops[index + 1].peer_id if index + 1 < len(hops) else self._head,
            manifest_hash=manifest.manifest_hash,
            span=hop.span,
            hidden_size=manifest.hidden_size,
            wire_dtype=request.wire_dtype,
            rates=RATES,
            work_max=work_bound(
                layers=len(hop.span),
                prompt_tokens=REPLAYS_MAX * request.capacity_tokens,
                output_tokens=REPLAYS_MAX * request.max_tokens,
                bytes_per_token=request.wire_dtype.row_bytes(manifest.hidden_size),
            ),
            amount_nanos_max=10**9,
            tokens_max=request.capacity_tokens,
            window_tokens=WINDOW_TOKENS,
            credit_windows=CREDIT_WINDOWS,
            fee_basis_points=500,
            issued_at_s=now_s,
            expires_at_s=now_s + LEASED_FOR_S,
            settle_by_s=now_s + SETTLED_WITHIN_S,
        )
        self._on_lease(lease)
        return lease
