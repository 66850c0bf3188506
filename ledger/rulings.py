"""What a ruling on mismatched links says, and which one the graph of blame proposes. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ledger.blame import Blame
from protocol.money import Nanos

__all__ = ["Decision", "Proposal", "propose"]


@dataclass(frozen=True, slots=True)
class Decision:
    """How one lease's parked money is divided."""

    lease_id: bytes
    to_provider_nanos: Nanos
    to_buyer_nanos: Nanos


@dataclass(frozen=True, slots=True)
class Proposal:
    """A ruling that two people may approve; nothing moves before."""

    decisions: tuple[Decision, ...]
    reason: str


def propose(
    parked: Mapping[bytes, Nanos],
    party_of: Mapping[bytes, str],
    links: Sequence[tuple[bytes, bytes]],
    blames: Iterable[Blame],
) -> Proposal | None:
    """Give back to the buyer what the blamed were to get, and everybody else theirs.

    parked: by lease. party_of: who answers for a lease's machine. links: the dispute's mismatches
    as leases of both ends. None unless each link has exactly one end to blame.
    """
    to_blame = {blame.party: blame for blame in blames}
    guilty: dict[str, Blame] = {}
    for sender, receiver in links:
        parties = {party_of[sender], party_of[receiver]}
        found = [to_blame[party] for party in sorted(parties) if party in to_blame]
        if len(found) != 1 or len(parties) != 2:
            return None
        guilty[found[0].party] = found[0]
    if not guilty:
        return None
    decisions = tuple(
        Decision(lease_id, 0, nanos)
        if party_of[lease_id] in guilty
        else Decision(lease_id, nanos, 0)
        for lease_id, nanos in sorted(parked.items())
    )
    return Proposal(decisions, "; ".join(guilty[party].reason for party in sorted(guilty)))
