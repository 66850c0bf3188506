"""GET /health for balancers (ready or 503) and /healthz for supervisors (alive). Never a key."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from node.api.errors import SHUTTING_DOWN, Problem
from node.api.readiness import Readiness, ReadyState

__all__ = ["health_router"]

_STARTING = Problem(503, "starting", "This server is not ready yet.", "server_error")


def health_router(readiness: Readiness) -> APIRouter:
    """What `readiness` says, over HTTP."""
    router = APIRouter(include_in_schema=False)

    @router.get("/health")
    async def report_readiness() -> JSONResponse:
        match readiness.state:
            case ReadyState.READY:
                return JSONResponse({"status": "ok"})
            case ReadyState.STARTING:
                return _STARTING.response()
            case ReadyState.DRAINING:
                return SHUTTING_DOWN.response()

    @router.get("/healthz")
    async def report_alive() -> JSONResponse:
        return JSONResponse({"status": "ok", "state": readiness.state})

    return router
