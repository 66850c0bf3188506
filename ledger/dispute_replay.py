"""Parked money in a log, replayed: was it parked for a reason that the log shows, and where is it?

Of a settled lease its word about its links is kept only where a neighbour is still to come: a
session that was repaired.
"""

from collections import defaultdict
from collections.abc import Sequence, Set

from ledger.errors import AuditFailed
from ledger.leaf import RulingLeaf
from ledger.links import LinkEnds, find_mismatches, loose_ends, touched
from protocol.identity import PeerId
from protocol.money import Nanos

__all__ = ["DisputeReplay"]


class DisputeReplay:
    """What is parked by lease; the caller counts what rulings credit."""

    def __init__(self, *, from_start: bool) -> None:
        self._from_start = from_start
        self._parked: dict[bytes, tuple[PeerId, Nanos]] = {}
        self._loose: dict[bytes, list[LinkEnds]] = defaultdict(list)
        """By session."""
        self.parked_nanos = self.returned_nanos = 0
        """Nobody's now; and given back to buyers."""

    def park(self, lease_id: bytes, provider: PeerId, nanos: Nanos) -> None:
        """So much of a lease's pay is nobody's from now on."""
        self.parked_nanos += nanos
        known, before = self._parked.get(lease_id, (provider, 0))
        if known != provider:
            raise AuditFailed(f"lease {lease_id.hex()} is not that provider's")
        if nanos + before:
            self._parked[lease_id] = (provider, before + nanos)

    def rule(self, ruling: RulingLeaf) -> None:
        """Parked money moves. Raises AuditFailed for more than there is."""
        moved = ruling.to_provider_nanos + ruling.to_buyer_nanos
        self.parked_nanos -= moved
        self.returned_nanos += ruling.to_buyer_nanos
        provider, parked = self._parked.pop(ruling.lease_id, (ruling.provider, 0))
        if parked > moved:
            self._parked[ruling.lease_id] = (provider, parked - moved)
        if self._from_start and (moved > parked or provider != ruling.provider):
            raise AuditFailed(
                f"a ruling moves {moved} of lease {ruling.lease_id.hex()}; {parked} are parked"
            )

    def check_parked(self, ends: Sequence[LinkEnds], parked: Set[bytes]) -> None:
        """That a settlement parks who contradicts a neighbour in it, and nobody without a reason.

        Raises AuditFailed. ends: of all its leases.
        """
        among_themselves = touched(find_mismatches(ends))
        loose = loose_ends(ends)
        before = [each for end in loose for each in self._loose.get(end.session_id, ())]
        guilty = touched(find_mismatches({*ends, *before})) if before else among_themselves
        for end in loose:
            self._loose[end.session_id].append(end)
        if missing := sorted(among_themselves - parked):
            raise AuditFailed(
                f"lease {missing[0].hex()} contradicts its neighbour, and was not parked"
            )
        if self._from_start and (extra := sorted(parked - guilty)):
            raise AuditFailed(f"lease {extra[0].hex()} is parked, and contradicts nobody")
