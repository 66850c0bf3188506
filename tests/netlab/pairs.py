"""Every kind of NAT with every other: who can meet directly in theory, and who does.

Theory (RFC 4787's words): UDP that is blocked meets nobody directly; a symmetric NAT meets whoever
filters by address at most, since its port towards a new peer is known to nobody beforehand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

from tests.netlab.lab import Lab
from tests.netlab.nat import NatKind
from tests.netlab.programs import PeerProgram, RelayProgram

__all__ = ["KINDS", "Met", "is_direct_possible", "meet", "meet_all"]

KINDS = (
    NatKind.NONE,
    NatKind.FIREWALL,
    NatKind.FULL_CONE,
    NatKind.RESTRICTED,
    NatKind.PORT_RESTRICTED,
    NatKind.REMAPPING,
    NatKind.SYMMETRIC,
    NatKind.CGNAT,
    NatKind.UDP_BLOCKED,
)
FILTERS_BY_PORT = frozenset(
    {NatKind.FIREWALL, NatKind.PORT_RESTRICTED, NatKind.REMAPPING, NatKind.CGNAT, NatKind.SYMMETRIC}
)
DELAY_MS = 10.0
"""Of each access line, one way: 40 ms between homes, and between a home and the relay."""

WATCH_S = 5.0
"""A pair that has not met directly by then stays on the relay, for this measurement."""


@dataclass(frozen=True, slots=True)
class Met:
    """What became of one pair. Times from the begin of the dial."""

    kinds: tuple[NatKind, NatKind]
    error: str = ""
    first_byte_ms: float = 0.0
    first_kind: str = ""
    direct_ms: float | None = None
    kind: str = ""


def is_direct_possible(one: NatKind, other: NatKind) -> bool:
    kinds = {one, other}
    if NatKind.UDP_BLOCKED in kinds:
        return False
    if one is other is NatKind.SYMMETRIC:
        return False
    return not (NatKind.SYMMETRIC in kinds and kinds & FILTERS_BY_PORT - {NatKind.SYMMETRIC})


def meet(dialer: PeerProgram, listener: PeerProgram, kinds: tuple[NatKind, NatKind]) -> Met:
    """One fresh connection, watched until it is direct; both forget it afterwards."""
    watch_s = WATCH_S if is_direct_possible(*kinds) else 2.5
    result = dialer.ask(
        "reach", peer=listener.peer_id, addresses=listener.addresses(), watch_s=watch_s
    )
    dialer.ask("part", peer=listener.peer_id)
    listener.ask("part", peer=dialer.peer_id)
    if "error" in result:
        return Met(kinds, error=result["error"])
    return Met(
        kinds,
        first_byte_ms=result["first_byte_ms"],
        first_kind=result["first_kind"],
        direct_ms=result["direct_ms"],
        kind=result["kind"],
    )


def meet_all(kinds: tuple[NatKind, ...] = KINDS) -> Iterator[Met]:
    """Every unordered pair once, the first of the two dialling."""
    with Lab(pool="global") as lab:
        relay = RelayProgram(lab.public("relay", delay_ms=DELAY_MS))
        try:
            peers = {
                (kind, side): PeerProgram(
                    lab.home(f"{side}{index}", nat=kind, delay_ms=DELAY_MS).host(f"{side}{index}h"),
                    seed=100 * (side == "b") + index + 1,
                    relays=[relay.address],
                )
                for index, kind in enumerate(kinds)
                for side in "ab"
            }
            for peer in peers.values():
                peer.wait_started()
            for one, other in combinations_with_replacement(kinds, 2):
                yield meet(peers[one, "a"], peers[other, "b"], (one, other))
        finally:
            relay.close()
