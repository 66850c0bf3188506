"""What the marketplace has granted: its hops as ours, and every lease against the route it is for.

A lease that does not fit would be refused by its hop, after everybody else has been opened.
"""

from collections.abc import Mapping
from typing import Any

from node.router.base import RoutePlan, RouteRequest
from protocol.errors import VerificationError
from protocol.identity import PeerId
from protocol.route import Hop, Span

__all__ = ["check_lease", "hops_of"]


def hops_of(answer: Mapping[str, Any]) -> list[Hop]:
    """The hops of a quote, or of the answer to a replacement, in order."""
    return [
        Hop(
            PeerId.from_text(hop["peer_id"]),
            Span(hop["span"]["start"], hop["span"]["end"]),
            tuple(hop["addresses"]),
        )
        for hop in answer["hops"]
    ]


def check_lease(plan: RoutePlan, index: int, request: RouteRequest, head: PeerId) -> None:
    """Raise VerificationError unless the lease at `index` lets `head` open that hop of the plan."""
    lease, hops = plan.leases[index], plan.route.hops
    ring = (head, *(hop.peer_id for hop in hops), head)
    payer_key = plan.payer_key.peer_id.public_key if plan.payer_key else b""
    pairs: dict[str, tuple[object, object]] = {
        "session": (lease.session_id, plan.session_id),
        "payer": (lease.payer_key, payer_key),
        "head": (lease.head, head),
        "hop": ((lease.hop_index, lease.hop_count), (index, len(hops))),
        "provider": (lease.provider, hops[index].peer_id),
        "previous peer": (lease.previous, ring[index]),
        "next peer": (lease.next, ring[index + 2]),
        "span": (lease.span, hops[index].span),
        "model": (lease.manifest_hash, request.manifest.manifest_hash),
        "wire dtype": (lease.wire_dtype, request.wire_dtype),
        "capacity": (lease.tokens_max >= request.capacity_tokens, True),
    }
    for name, (granted, wanted) in pairs.items():
        if granted != wanted:
            raise VerificationError(
                f"The lease for hop {index} is not for the route that came: its {name} differs."
            )
