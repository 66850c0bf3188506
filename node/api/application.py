"""The API of a node as one ASGI application. It is given its head; it makes none."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from node.api.answering import SESSION_HEADER
from node.api.errors import ApiError, ErrorBody, logged_problem, request_id_of
from node.api.generations import generations_router
from node.api.health import health_router
from node.api.middleware import BodyLimit, DrainGate, ErrorGuard, RequestMarks
from node.api.models import models_router
from node.api.openai_chat import chat_router
from node.api.pairing import PairingGate
from node.api.readiness import Readiness
from node.api.settings import ApiSettings
from node.api.validation import validation_problem
from node.head.answer import Head
from protocol.errors import PieceworkError

if TYPE_CHECKING:  # newer than the oldest FastAPI that serves us, which ignores the argument
    from fastapi.telemetry import TelemetryConfig

__all__ = ["create_api"]

CORS_MAX_AGE_S = 600
"""How long a browser may remember the answer to its preflight question."""

_EXPOSED_HEADERS = (
    "x-request-id",
    "openai-processing-ms",
    "retry-after",
    SESSION_HEADER,
    *(
        f"x-ratelimit-{figure}-{of}"
        for figure in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    ),
)

_NO_TELEMETRY: "TelemetryConfig" = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI's own spans would carry request bodies, which are prompts."""


def create_api(head: Head, *, readiness: Readiness, settings: ApiSettings | None = None) -> FastAPI:
    """The whole surface: chat, models, generations, with /v1 and without, and health.

    `readiness` is watched, not owned. Serve it with a graceful shutdown: what still streams at its
    end is cancelled, and says so to its client.
    """
    settings = settings or ApiSettings()
    api = FastAPI(
        title="Piecework",
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        middleware=_layers(readiness, settings),
        telemetry=_NO_TELEMETRY,
        responses={
            "4XX": {"model": ErrorBody, "description": "Refused"},
            "5XX": {"model": ErrorBody, "description": "Failed"},
        },
    )
    surface = APIRouter()
    surface.include_router(chat_router(head, settings))
    surface.include_router(models_router(head, settings))
    surface.include_router(generations_router(head, settings))
    api.include_router(surface, prefix="/v1")
    # half of all support questions about such servers are a base URL without its /v1
    api.include_router(surface, include_in_schema=False)
    api.include_router(health_router(readiness))
    for error in (ApiError, PieceworkError, HTTPException):
        api.add_exception_handler(error, _answer_error)
    api.add_exception_handler(RequestValidationError, _answer_invalid)
    return api


def _layers(readiness: Readiness, settings: ApiSettings) -> list[Middleware]:
    """Outermost first: every response gets its id, and every error the headers browsers want."""
    layers = [Middleware(RequestMarks)]
    if settings.any_origin:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=_EXPOSED_HEADERS,
                max_age=CORS_MAX_AGE_S,
            )
        )
    layers.append(Middleware(ErrorGuard))
    if settings.pairing_token is not None:
        layers.append(Middleware(PairingGate, token=settings.pairing_token))
    layers += [
        Middleware(DrainGate, readiness=readiness),
        Middleware(BodyLimit, bytes_max=settings.body_bytes_max),
    ]
    return layers


async def _answer_error(request: Request, error: Exception) -> Response:
    return logged_problem(error, request_id_of(request.scope)).response()


async def _answer_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):  # only for the type checker
        raise error
    return validation_problem(error).response()
