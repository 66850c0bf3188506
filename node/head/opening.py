"""The OPEN that each hop is sent, in the first epoch and in every later one."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from node.router.base import RoutePlan
from protocol.frame import Open
from protocol.identity import PeerId
from protocol.route import Hop
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["Opening", "Resumption"]


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a later epoch begins. `drawn`: answer tokens up to position `resume`, for a sampler."""

    epoch: int
    resume: int
    steps: int = 0
    forget: Set[int] = frozenset()
    drawn: Sequence[int] = ()


_FIRST = Resumption(0, 0)


@dataclass(frozen=True, slots=True)
class Opening:
    """What the OPENs of one session say, whatever its route is now."""

    head: PeerId
    manifest_hash: bytes
    wire_dtype: WireDtype
    capacity_tokens: int
    sampling: SamplingParameters
    eos: tuple[int, ...] = ()
    prefix: tuple[bytes, ...] = ()
    standbys: Set[int] = field(default_factory=frozenset)

    def frame(
        self,
        plan: RoutePlan,
        index: int,
        at: Resumption = _FIRST,
        *,
        standby: bool = False,
        mirror: Hop | None = None,
    ) -> Open:
        """What the hop at `index` is sent, or its standby. `mirror`: the next hop's standby."""
        hops, sealed = plan.route.hops, plan.route.sealed
        last = index == len(hops) - 1
        hop = hops[index]
        loop = _loop(plan, index)
        return Open(
            session_id=plan.session_id,
            epoch=at.epoch,
            hop_index=index,
            hop_count=len(hops),
            previous=self.head if index == 0 else hops[index - 1].peer_id,
            next=self.head if last else hops[index + 1].peer_id,
            next_addresses=() if last else hops[index + 1].addresses,
            manifest_hash=self.manifest_hash,
            span=hop.span,
            wire_dtype=self.wire_dtype,
            sealed=sealed,
            capacity_tokens=self.capacity_tokens,
            sampling=self.sampling if last and not sealed else None,
            lease=plan.lease_envelopes[index] if plan.lease_envelopes else None,
            prefix=self.prefix if at.epoch == 0 else (),
            resume=at.resume,
            steps=at.steps,
            forget=index in at.forget,
            neighbours=_neighbours(plan, index, self.head),
            drawn=self._drawn(at, samples=last and not sealed),
            standby=standby,
            mirror=mirror.peer_id if mirror else None,
            mirror_addresses=mirror.addresses if mirror else (),
            loop=loop.peer_id if loop else None,
            loop_addresses=loop.addresses if loop and last else (),
            eos=self.eos if last and not sealed else (),
        )

    def _drawn(self, at: Resumption, *, samples: bool) -> bytes:
        """Only penalties look at what was drawn before."""
        penalizes = self.sampling.frequency_penalty_millionths or (
            self.sampling.presence_penalty_millionths
        )
        if not (samples and penalizes):
            return b""
        return np.asarray(at.drawn, dtype="<i4").tobytes()


def _loop(plan: RoutePlan, index: int) -> Hop | None:
    """The other end of an open route's short loop."""
    hops = plan.route.hops
    if plan.route.sealed or index not in (0, len(hops) - 1):
        return None
    return hops[-1] if index == 0 else hops[0]


def _neighbours(plan: RoutePlan, index: int, head: PeerId) -> tuple[bytes, ...]:
    """Leases of neighbours that this hop's own lease does not name: they came later."""
    if not plan.leases:
        return ()
    own, hops = plan.leases[index], plan.route.hops
    proofs = []
    if index > 0 and own.previous != hops[index - 1].peer_id:
        proofs.append(plan.lease_envelopes[index - 1])
    if index < len(hops) - 1 and own.next != hops[index + 1].peer_id:
        proofs.append(plan.lease_envelopes[index + 1])
    return tuple(proofs)
