"""The composition root: builds every part of a marketplace and the HTTP application over it."""

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from ledger.errors import LedgerError
from ledger.invariants import Violation
from marketplace import endpoints
from marketplace.accounts import endpoints as accounts
from marketplace.asgi import BodyLimit, RequestId
from marketplace.books import PROCESSOR_RULE, check_sums
from marketplace.clock import Clock, SystemClock
from marketplace.config import MarketConfig, load_key
from marketplace.db import Database
from marketplace.disputes import endpoints as disputes
from marketplace.earnings import endpoints as earnings
from marketplace.errors import MarketError, error_body
from marketplace.jobs import JOBS, LOCAL_JOBS, publish
from marketplace.keys import endpoints as keys
from marketplace.leases import endpoints as leases
from marketplace.ledger_pages import endpoints as ledger_pages
from marketplace.machines import endpoints as machines
from marketplace.manifests import endpoints as manifests
from marketplace.market import Market
from marketplace.offers import endpoints as offers
from marketplace.offers.service import rebuild
from marketplace.operations import endpoints as operations
from marketplace.payments import endpoints as payments
from marketplace.payments.choosing import choose_processor
from marketplace.payments.handlers import register
from marketplace.payouts import endpoints as payouts
from marketplace.payouts.service import on_processor_event
from marketplace.quotes import endpoints as quotes
from marketplace.receipts import endpoints as receipts
from marketplace.standing import endpoints as standing
from marketplace.statements import endpoints as statements
from marketplace.usage import endpoints as usage
from marketplace.users import endpoints as users
from marketplace.worker import Job, Worker
from protocol.errors import PieceworkError, ProtocolError, VerificationError, WrongSigner

__all__ = ["create_app", "create_market"]

log = logging.getLogger(__name__)

ROUTERS: tuple[APIRouter, ...] = (
    endpoints.router,
    accounts.router,
    keys.router,
    payments.router,
    manifests.router,
    offers.router,
    quotes.router,
    leases.router,
    receipts.router,
    statements.router,
    ledger_pages.router,
    users.router,
    machines.router,
    disputes.router,
    standing.router,
    payouts.router,
    earnings.router,
    usage.router,
    operations.router,
)


PAYOUT_EVENTS = (
    "account.updated",
    "payout.failed",
    "payout.paid",
    "transfer.created",
    "transfer.reversed",
    "transfer.updated",
    "v2.core.account.updated",
)
"""What the processor tells that `payouts` acts on."""


def create_app(
    config: MarketConfig | None = None,
    *,
    clock: Clock | None = None,
    own_rounds: bool = True,
    jobs: Sequence[Job] = JOBS,
) -> FastAPI:
    """A marketplace that serves once its lifespan has begun. Raises MarketError on a bad key file.

    `clock`: the machine's own where none is given. `jobs`: those it runs between requests; without
    `own_rounds` somebody else calls the worker's `round`.
    """
    market = create_market(config, clock=clock)
    app = FastAPI(
        title="Piecework marketplace",
        lifespan=_lifespan(market, jobs, own_rounds=own_rounds),
        docs_url=None,
        redoc_url=None,
    )
    app.state.market = market
    app.router.routes.extend(_routes(market.processor.name))
    _add_error_handlers(app)
    # the last added is the outermost
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestId)
    return app


@functools.cache
def _routes(processor: str) -> Sequence[BaseRoute]:
    """Every endpoint: the same for all marketplaces of a process, and made once."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for router in ROUTERS:
        app.include_router(router)
    of_processor = payments.simulated_router if processor == "test" else payments.stripe_router
    app.include_router(of_processor)
    return tuple(app.router.routes)


def create_market(config: MarketConfig | None = None, *, clock: Clock | None = None) -> Market:
    """Every part of a marketplace but its HTTP. Raises MarketError on a bad key file."""
    config = config or MarketConfig()
    processor = choose_processor(config)
    for kind in PAYOUT_EVENTS:
        register(kind, on_processor_event)
    return Market(
        config=config,
        key=load_key(config.home),
        clock=clock or SystemClock(),
        database=Database(config.url),
        processor=processor,
        payout_processor=processor,
    )


def _lifespan(
    market: Market, jobs: Sequence[Job], *, own_rounds: bool
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        all_jobs = (*jobs, *LOCAL_JOBS)
        worker = Worker(market, all_jobs, on_fork=lambda: signal.raise_signal(signal.SIGTERM))
        app.state.worker = worker
        await asyncio.to_thread(_start, market)
        task = asyncio.create_task(worker.run()) if own_rounds else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            market.database.close()

    return lifespan


def _start(market: Market) -> None:
    """Tables, the live index, and a first checkpoint, so that there always is one."""
    market.database.upgrade()
    with market.database.reading() as session:
        if market.config.check_on_start:
            _require_order(
                # what a processor tells otherwise may be on its way, and comes by our own HTTP
                [found for found in check_sums(session) if found.invariant != PROCESSOR_RULE]
            )
        rebuild(session, market.index, now_s=market.clock.now_s())
    publish(market)


def _require_order(violations: Sequence[Violation]) -> None:
    """Nothing is sold over books that do not add up: every rule is told, and the process ends."""
    for violation in violations:
        log.critical("%s: %s", violation.invariant, violation.detail)
    if violations:
        raise MarketError(
            f"The books are not in order: {len(violations)} rows break a rule.",
            hint="Run 'piecework-market check', and restore the database from a backup.",
        )


def _add_error_handlers(app: FastAPI) -> None:
    """Every error leaves in one shape; what is not handled here is `asgi.RequestId`'s."""

    @app.exception_handler(PieceworkError)
    async def on_error(_: Request, error: PieceworkError) -> JSONResponse:
        if isinstance(error, MarketError):
            return JSONResponse(error.body(), error.status_code, error.headers)
        status_code, code = _status_of(error)
        return JSONResponse(error_body(code, error.message, error.hint), status_code)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        message = f"{where}: {first['msg']}"
        return JSONResponse(error_body("malformed", message, "See /openapi.json."), 400)

    @app.exception_handler(HTTPException)
    async def on_http(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "malformed")
        body = error_body(code, str(error.detail), "See /openapi.json.")
        return JSONResponse(body, error.status_code, error.headers)


def _status_of(error: PieceworkError) -> tuple[int, str]:
    """Errors of the packages below, as this API tells them."""
    match error:
        case WrongSigner():
            return 403, "wrong_signer"
        case VerificationError():
            return 400, "not_verified"
        case ProtocolError():
            return 400, "malformed"
        case LedgerError():
            return 409, "ledger_refused"
    raise error
