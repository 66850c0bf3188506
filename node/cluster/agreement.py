"""When a plan is followed: at once if others carry it, after a pause if it would be new. Sans-IO.

Machines come and go in clusters of their own: two laptops that wake, four that start one after
another. A plan made at the first of these would be made again at the next, and each costs a load.
"""

from collections.abc import Collection, Sequence
from typing import Final

from node.cluster.placement import agree
from protocol.identity import PeerId
from protocol.machine import ClusterPlan, MachineRecord

__all__ = ["SETTLE_S", "Agreement"]

SETTLE_S: Final = 1.5
"""How long the members must have stayed as they are before a new plan is made."""


class Agreement:
    """One machine's choice of plan for one model."""

    def __init__(self, manifest_hash: bytes, layers: int, settle_s: float = SETTLE_S) -> None:
        self._manifest_hash = manifest_hash
        self._layers = layers
        self._settle_s = settle_s
        self._facts: object = None
        self._changed_at = 0.0

    def observe(
        self, records: Sequence[MachineRecord], expected: Collection[PeerId], now: float
    ) -> ClusterPlan | None:
        """The plan to follow now; None: none yet, or none new. A plan that nobody follows must
        wait until the members, and those they have announced (`expected`), stay as they are."""
        facts = (
            frozenset(expected),
            *((r.peer_id, r.joined_at_ms, r.manifest_hash, r.room, r.spread) for r in records),
        )
        if facts != self._facts:
            self._facts, self._changed_at = facts, now
        plan = agree(records, self._manifest_hash, self._layers)
        if plan is None or any(plan == record.plan for record in records):
            return plan
        return plan if now >= self._changed_at + self._settle_s else None

    def is_settled(self, now: float) -> bool:
        return now >= self._changed_at + self._settle_s
