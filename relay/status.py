"""The relay's page for who runs it: /status as JSON, /metrics for Prometheus, /healthz.

Says how the relay is doing, and nothing about who talks with whom.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from relay.metrics import Counts, render_metrics
from relay.resources import Resources

__all__ = ["Identity", "create_status_app", "status_body"]

SCHEMA = 1
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DRAINING_STATUS = 503


@dataclass(frozen=True, slots=True)
class Identity:
    """What does not change while a relay runs."""

    peer_id: str
    version: str
    addresses: tuple[str, ...]
    """Multiaddrs of the control plane: what nodes are given."""
    udp_ports: tuple[int, ...]
    """Of the forwarder and the reflector."""


def create_status_app(
    identity: Callable[[], Identity], resources: Resources, counts: Callable[[], Counts]
) -> FastAPI:
    """The application; it is served on loopback unless the operator says otherwise."""
    app = FastAPI(title="Piecework relay", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/status")
    async def status() -> JSONResponse:
        return JSONResponse(status_body(identity(), resources, counts()))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(render_metrics(counts()), media_type=METRICS_TYPE)

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        if counts().is_draining:
            return JSONResponse({"status": "draining"}, DRAINING_STATUS)
        return JSONResponse({"status": "ok"})

    return app


def status_body(identity: Identity, resources: Resources, counts: Counts) -> dict[str, Any]:
    """Plain data, for JSON and for `piecework-relay status`."""
    return {
        "schema": SCHEMA,
        **dataclasses.asdict(identity),
        "uptime_s": round(counts.uptime_s, 1),
        "state": "draining" if counts.is_draining else "serving",
        "limits_near": [
            {**dataclasses.asdict(fill), "share": round(fill.used / fill.of, 4)}
            for fill in sorted(counts.fills, key=lambda fill: fill.used / fill.of, reverse=True)
        ],
        "circuits": {"bytes": counts.circuit_bytes, "ended": dict(counts.circuits_ended)},
        "forwarder": {
            "bytes": counts.forwarded_bytes,
            "datagrams": counts.forwarded_datagrams,
            "dropped": dict(counts.datagrams_dropped),
        },
        "reflector": {"answers": counts.reflected},
        "refused": dict(counts.refused),
        "limits": dataclasses.asdict(resources),
    }
