"""A cluster as its owner sees it: one plain value for the status page, the table and --json."""

from collections.abc import Mapping, Sequence

from node.cluster.gossip import Gossip
from planning.routes import missing_spans
from protocol.announcement import Announcement
from protocol.identity import PeerId
from protocol.machine import MachineRecord
from protocol.model import ModelManifest

__all__ = ["announcements", "cluster_view"]


def announcements(records: Sequence[MachineRecord], manifest: ModelManifest) -> list[Announcement]:
    """What the members serve of one model now. The ends follow from where a span lies."""
    return [
        Announcement(
            peer_id=record.peer_id,
            addresses=record.addresses,
            model=manifest.name,
            manifest_hash=manifest.manifest_hash,
            layers=manifest.layers,
            span=holding.span,
            embeds=holding.span.start == 0,
            has_head=holding.span.end == manifest.layers,
            backend=holding.backend,
            kv_tokens=holding.kv_tokens,
            issued_at_s=record.issued_at_s,
            expires_at_s=record.expires_at_s,
        )
        for record in records
        if record.manifest_hash == manifest.manifest_hash
        and (holding := record.holding) is not None
        and holding.span.end <= manifest.layers
    ]


def cluster_view(
    gossip: Gossip, cluster: str, manifest: ModelManifest | None, *, answers: int, sessions: int
) -> dict[str, object]:
    """Everything that is shown; `manifest` None: the model is not known here yet."""
    own = gossip.membership.own
    records = gossip.records
    path_kinds = gossip.path_kinds()
    missing: list[str] = []
    if manifest is not None:
        spans = [announced.span for announced in announcements(records, manifest)]
        missing = [str(span) for span in missing_spans(manifest.layers, spans)]
    return {
        "role": "cluster",
        "peer_id": str(own.peer_id),
        "cluster": cluster,
        "model": own.model,
        "layers": manifest.layers if manifest else None,
        "room": _room(records, manifest),
        "missing": missing if manifest else None,
        "is_ready": manifest is not None and not missing,
        "epoch": own.plan.epoch if own.plan else 0,
        "answers": answers,
        "sessions": sessions,
        "machines": [_machine(record, own, path_kinds) for record in records],
    }


def _room(records: Sequence[MachineRecord], manifest: ModelManifest | None) -> int | None:
    """Layers that all machines together could hold, if the ends weighed nothing."""
    if manifest is None:
        return None
    same = [r for r in records if r.manifest_hash == manifest.manifest_hash]
    return sum(record.room.layers for record in same if record.room is not None)


def _machine(
    record: MachineRecord, own: MachineRecord, path_kinds: Mapping[PeerId, str]
) -> dict[str, object]:
    planned = own.plan.span_of(record.peer_id) if own.plan else None
    return {
        "name": record.name,
        "peer_id": str(record.peer_id),
        "is_self": record.peer_id == own.peer_id,
        "path_kind": path_kinds.get(record.peer_id, ""),
        "state": str(record.state),
        "done_percent": record.done_percent,
        "model": record.model,
        "has_same_model": record.manifest_hash == own.manifest_hash,
        "planned": str(planned) if planned else None,
        "span": str(record.holding.span) if record.holding else None,
        "backend": record.holding.backend if record.holding else None,
        "memory_bytes": record.memory_bytes,
        "layers_max": record.room.layers if record.room else 0,
        "rows_per_s": record.rows_per_s,
        "token_layers_per_s": record.token_layers_per_s,
        "api_port": record.api_port,
        "version": record.version,
    }
