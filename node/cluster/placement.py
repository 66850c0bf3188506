"""Who holds which layers: the same records give the same plan on every machine. Pure.

A plan, once made, is carried in the records of those who follow it, and stands as long as it can
be followed: a machine that comes moves nothing that works. When a machine of it is gone (or has
become too small, or says that it leaves), the next plan is made from it with as little moved as
can be. Machines that see different members for a moment may make different plans; then the later
epoch wins, and of one epoch that of the machine that is here longest, and all follow that.
"""

from collections.abc import Sequence
from statistics import median_low
from typing import Final

from planning.house import NOTHING, Machine
from planning.moves import replace_lost
from protocol.identity import PeerId
from protocol.limits import HOPS_MAX
from protocol.machine import Assignment, ClusterPlan, MachineRecord
from protocol.record import encode_canonical, encode_fields

__all__ = ["agree", "can_follow"]

SPEED_UNKNOWN: Final = 1
"""Token-layers per second of a house where none was measured: all count alike."""


def agree(
    records: Sequence[MachineRecord], manifest_hash: bytes, layers: int
) -> ClusterPlan | None:
    """The plan for one model over its machines; None if all together cannot hold it.

    It is one of those that the records carry, if one can be followed, and else a new one.
    """
    able = _able(records, manifest_hash)
    plans = {
        plan
        for record in records
        if (plan := record.plan) is not None
        and plan.manifest_hash == manifest_hash
        and plan.layers == layers
    }
    born = {record.peer_id: record.joined_at_ms for record in records}
    ranked = sorted(plans, key=lambda plan: _rank(plan, born), reverse=True)
    spread = any(record.spread for record in able)
    for plan in ranked:
        if can_follow(plan, able, spread=spread):
            return plan
    return _next_plan(able, manifest_hash, layers, ranked[0] if ranked else None, spread=spread)


def can_follow(plan: ClusterPlan, able: Sequence[MachineRecord], *, spread: bool) -> bool:
    """Whether every machine of a plan is here and has the room for its span."""
    held = [plan.span_of(record.peer_id) for record in able]
    if sum(span is not None for span in held) < len(plan.assignments):
        return False
    spans = replace_lost(plan.layers, _machines(able), held, spread=spread)
    return spans is not None and all(
        span == (was or NOTHING) for span, was in zip(spans, held, strict=True)
    )


def _able(records: Sequence[MachineRecord], manifest_hash: bytes) -> list[MachineRecord]:
    """The machines that layers of this model can be given to, in the order in which they came."""
    able = [r for r in records if r.manifest_hash == manifest_hash and r.room is not None]
    return sorted(able, key=lambda r: (r.joined_at_ms, r.peer_id))


def _rank(plan: ClusterPlan, born: dict[PeerId, int]) -> tuple[int, int, bytes]:
    """The later epoch, then the plan of the machine that is here longest, then any one order."""
    eldest = min((born[a.peer_id] for a in plan.assignments if a.peer_id in born), default=2**63)
    return plan.epoch, -eldest, encode_canonical(encode_fields(plan))


def _next_plan(
    able: Sequence[MachineRecord],
    manifest_hash: bytes,
    layers: int,
    before: ClusterPlan | None,
    *,
    spread: bool,
) -> ClusterPlan | None:
    held = [before.span_of(record.peer_id) if before else None for record in able]
    spans = replace_lost(layers, _machines(able), held, spread=spread)
    if spans is None:
        return None
    assignments = sorted(
        (Assignment(r.peer_id, span) for r, span in zip(able, spans, strict=True) if len(span)),
        key=lambda assignment: assignment.span,
    )
    if len(assignments) > HOPS_MAX:
        return None
    epoch = before.epoch + 1 if before else 1
    return ClusterPlan(epoch, manifest_hash, layers, tuple(assignments))


def _machines(able: Sequence[MachineRecord]) -> list[Machine]:
    """What a machine has not measured counts as the middle of what the others have."""
    measured = [r.token_layers_per_s for r in able if r.token_layers_per_s]
    assumed = median_low(measured) if measured else SPEED_UNKNOWN
    return [_machine(record, assumed) for record in able]


def _machine(record: MachineRecord, assumed: int) -> Machine:
    room = record.room
    assert room is not None
    return Machine(
        name=record.name,
        layers_max=room.layers,
        token_layers_per_s=record.token_layers_per_s or assumed,
        layers_beside_end=room.beside_end,
        layers_with_ends=room.with_ends,
    )
