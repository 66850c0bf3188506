"""The OPEN frames of a route: what each hop is told of the session and of its neighbours."""

from dataclasses import dataclass

from node.router.base import RoutePlan
from protocol.frame import Open
from protocol.identity import PeerId
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["Opening"]


@dataclass(frozen=True, slots=True)
class Opening:
    """One session about to be opened by `head`."""

    plan: RoutePlan
    head: PeerId
    manifest_hash: bytes
    wire_dtype: WireDtype
    capacity_tokens: int
    sampling: SamplingParameters
    prefix: tuple[bytes, ...]

    def frame(self, index: int, *, epoch: int = 0) -> Open:
        """What the hop at `index` is sent."""
        hops, sealed = self.plan.route.hops, self.plan.route.sealed
        last = index == len(hops) - 1
        return Open(
            session_id=self.plan.session_id,
            epoch=epoch,
            hop_index=index,
            hop_count=len(hops),
            previous=self.head if index == 0 else hops[index - 1].peer_id,
            next=self.head if last else hops[index + 1].peer_id,
            next_addresses=() if last else hops[index + 1].addresses,
            manifest_hash=self.manifest_hash,
            span=hops[index].span,
            wire_dtype=self.wire_dtype,
            sealed=sealed,
            capacity_tokens=self.capacity_tokens,
            sampling=self.sampling if last and not sealed else None,
            lease=self.plan.lease_envelopes[index] if self.plan.lease_envelopes else None,
            prefix=self.prefix,
        )
