"""What every command shares: an event loop that ends on Ctrl-C, and errors a person can act on."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from node.errors import ConfigInvalid, KeyRefused, MarketUnreachable, PaymentRequired
from node.models.errors import ModelDenied, SourcesFailed
from protocol.errors import PieceworkError, RemoteProtocolError

__all__ = ["fail", "run_service", "run_task", "tell"]

T = TypeVar("T")
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
"""EX_UNAVAILABLE of sysexits.h: something we need does not answer."""
EXIT_DENIED = 77
"""EX_NOPERM: a key or a balance does not allow it."""


def tell(message: str) -> None:
    """Talk goes to stderr; stdout is for data."""
    print(f"piecework: {message}", file=sys.stderr, flush=True)  # noqa: T201


def fail(error: PieceworkError) -> NoReturn:
    """Say what went wrong and what to do, and leave with the code that fits."""
    tell(str(error))
    match error:
        case MarketUnreachable() | SourcesFailed():
            sys.exit(EXIT_UNAVAILABLE)
        case KeyRefused() | PaymentRequired() | ModelDenied():
            sys.exit(EXIT_DENIED)
        case ConfigInvalid() | RemoteProtocolError():
            sys.exit(EXIT_USAGE)
    sys.exit(EXIT_FAILED)


def run_task(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run one piece of work to its end; a PieceworkError becomes a sentence and an exit code."""
    _log_to_stderr()
    try:
        with asyncio.Runner(loop_factory=_loop) as runner:
            return runner.run(work())
    except PieceworkError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def run_service(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run until Ctrl-C or SIGTERM sets the event; a second one leaves at once."""

    async def work() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, _on_signal, stop, number)
        await serve(stop)

    run_task(work)


def _on_signal(stop: asyncio.Event, number: signal.Signals) -> None:
    if stop.is_set():
        sys.exit(128 + number)
    stop.set()


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for chatty in ("httpx", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
