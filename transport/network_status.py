"""The network side of a host as plain values that JSON can carry: for status pages and `doctor`.

Whoever reads it finds for every connection by which path it goes, and of every path that was tried
and is not used why.
"""

from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from transport.address import AnyAddress
from transport.home_connection import HomeConnection
from transport.lan.verdict import LanVerdict
from transport.paths.state import PathReport, PathStatus
from transport.reach.attachment import RelayStatus
from transport.reach.reach_link import ReachLink
from transport.reach.whereabouts import Whereabouts

__all__ = ["network_status"]

_WAITING: Final = {PathStatus.NEW: "no answer yet", PathStatus.SILENT: "it fell silent"}
"""Why a path that is still tried is not used; one that works needs no reason."""


def network_status(
    *,
    addresses: Sequence[AnyAddress],
    relays: Sequence[RelayStatus],
    whereabouts: Whereabouts,
    connections: Sequence[HomeConnection],
    links: Sequence[ReachLink],
    verdicts: Sequence[LanVerdict],
) -> dict[str, Any]:
    """Durations are in ms where the name says so; ages count back from now, in seconds.

    `reaching` are the links under way, without a connection yet.
    """
    linked = {reach.link.connection: reach for reach in links if reach.link.connection is not None}
    carriers = {verdict.peer_id: verdict for verdict in verdicts}
    return {
        "addresses": [str(address) for address in addresses],
        "relays": [_relay(status) for status in relays],
        "nat": {
            "mapping": str(whereabouts.hints.mapping),
            "filtering": str(whereabouts.hints.filtering),
            "observed": [_socket(host, port) for host, port in whereabouts.observed],
        },
        "port_mapping": _port_mapping(whereabouts),
        "connections": [
            _connection(each, linked.get(each.quic), carriers.get(each.peer_id))
            for each in connections
        ],
        "reaching": [
            {"peer_id": str(reach.link.peer_id), **_link(reach)}
            for reach in links
            if reach.link.connection is None
        ],
    }


def _relay(status: RelayStatus) -> dict[str, Any]:
    return {
        "relay": str(status.relay),
        "state": str(status.state),
        "reason": status.reason,
        "renew_ms": _ms(status.renew_s),
    }


def _port_mapping(whereabouts: Whereabouts) -> dict[str, Any]:
    mapper = whereabouts.mapper
    if mapper is None:
        return {"address": None, "protocol": None, "reason": "not asked for"}
    if (mapping := mapper.mapping) is None:
        return {"address": None, "protocol": None, "reason": mapper.reason}
    address = _socket(mapping.host, mapping.port)
    return {"address": address, "protocol": mapping.protocol, "reason": ""}


def _connection(
    connection: HomeConnection, reach: ReachLink | None, verdict: LanVerdict | None
) -> dict[str, Any]:
    """One that was dialled plainly has the one path on which it was answered."""
    described: dict[str, Any] = {
        "peer_id": str(connection.peer_id),
        "path_kind": str(connection.path_kind),
        "remote": connection.remote,
        "round_trip_ms": _ms(connection.round_trip_s),
        "lan": None,
    }
    if verdict is not None:
        described["lan"] = {
            "carrier": str(verdict.carrier), "reason": verdict.reason, "path": verdict.path
        }  # fmt: skip
    if reach is not None:
        return described | _link(reach)
    path = {
        "path": connection.remote, "kind": str(connection.path_kind), "status": "live",
        "is_current": True, "round_trip_ms": described["round_trip_ms"], "reason": "",
    }  # fmt: skip
    return described | {"paths": [path], "punches": [], "has_tunnel": False}


def _link(reach: ReachLink) -> dict[str, Any]:
    return {
        "paths": [_path(report) for report in reach.link.reports],
        "punches": list(reach.link.punches),
        "has_tunnel": reach.has_tunnel,
    }


def _path(report: PathReport) -> dict[str, Any]:
    """`reason`: why it is not used, empty for one that works."""
    status, reason = report.status.value, _WAITING.get(report.status, "")
    if report.ended is not None:
        status, reason = "ended", report.reason
    return {
        "path": report.path,
        "kind": str(report.kind),
        "status": status,
        "is_current": report.is_current and report.ended is None,
        "round_trip_ms": None if report.rtt_s is None else _ms(report.rtt_s),
        "age_s": round(monotonic() - report.since, 1),
        "reason": reason,
    }


def _socket(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
