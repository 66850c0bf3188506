"""The thread in which trio runs, and the way there and back: about 30 µs.

From asyncio a task is sent over with `submit` and comes back as a future; from trio a call is sent
back with `call_back`. No object is touched from both sides.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, TypeVarTuple

import trio

from transport.errors import PeerGone

__all__ = ["TrioThread"]

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

JOIN_TIMEOUT_S: Final = 5.0
"""Ending takes milliseconds; a thread that does not end is left behind, and said so."""


class TrioThread:
    """Owned by one control host. `start` and `close` are called once each."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._pending: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        self._thread.start()
        await self._started

    async def close(self) -> None:
        """Cancel everything there, and wait for the thread's end."""
        self.post(self._cancel)
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            log.error("the control plane's thread did not end; it is left behind")
        else:
            self._thread.join(JOIN_TIMEOUT_S)  # only its last instructions are left
        for future in tuple(self._pending):  # those that the thread never got to see
            _resolve(future, None, PeerGone("The control plane is closed."))

    def post(self, function: Callable[[*Ts], object], *args: *Ts) -> bool:
        """Call `function` over there soon; False where the thread is gone."""
        assert self._token is not None, "started before anything is posted"
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            return False
        return True

    def submit(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> asyncio.Future[T]:
        """Run `function` over there; cancelling the future cancels it. PeerGone after `close`."""
        future: asyncio.Future[T] = self._loop.create_future()
        scope = trio.CancelScope()

        def done(future: asyncio.Future[T]) -> None:
            self._pending.discard(future)
            if future.cancelled():
                self.post(scope.cancel)
            else:
                future.exception()  # looked at, so that an abandoned one is not complained about

        future.add_done_callback(done)
        self._pending.add(future)
        if not self.post(self._spawn, function, args, future, scope):
            future.set_exception(PeerGone("The control plane is closed."))
        return future

    def call_back(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """From over there: call `function` in the owner's loop."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed without closing us first: nobody listens
            self._cancel()

    # --- in the thread

    def start_soon(self, function: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """From over there: a task beside the caller's, which lets no error out."""
        assert self._nursery is not None, "called from within the nursery's own tasks"
        self._nursery.start_soon(function, *args)

    def _main(self) -> None:
        try:
            trio.run(self._run)
        except Exception:
            log.exception("the control plane's thread failed")
        finally:
            self.call_back(self._ended.set)

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self.call_back(_resolve, self._started, None, None)
            await trio.sleep_forever()

    def _cancel(self) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def _spawn(
        self,
        function: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        future: asyncio.Future[Any],
        scope: trio.CancelScope,
    ) -> None:
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            self.call_back(_resolve, future, None, PeerGone("The control plane is closed."))
        else:
            self._nursery.start_soon(self._operate, function, args, future, scope)

    async def _operate(
        self,
        function: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        future: asyncio.Future[Any],
        scope: trio.CancelScope,
    ) -> None:
        result: Any = None
        error: Exception | None = PeerGone("The control plane is closed.")
        try:
            with scope:
                result, error = await function(*args), None
        except Exception as caught:  # the edge of a task: it belongs to whoever waits
            error = caught
        finally:
            self.call_back(_resolve, future, result, error)


def _resolve(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
