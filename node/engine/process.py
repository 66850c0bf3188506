"""One life of a worker process: started, asked, and found dead. EngineWorker keeps one. POSIX.

The socket is an asyncio transport: the loop itself reads and writes it (epoll, or libuv under
uvloop), so a step costs no thread hand-over and nothing here can block the loop. The child's end
closes when the child goes, by whatever cause; that is how a death is noticed.
"""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from node.engine.channel import Channel
from node.engine.errors import EngineDied, QueueFull
from node.engine.memory import MEMORY_HINT
from node.engine.message import (
    LENGTH,
    MESSAGE_BYTES_MAX,
    Operation,
    decode_error,
    decode_message,
    encode_message,
)

__all__ = ["WorkerProcess"]

T = TypeVar("T")

PENDING_MAX = 4096
"""Requests waiting for a reply: far more than a node has sequences, so reaching it is a fault."""

EXIT_WAIT_S = 5.0
"""From the socket's end to the process's: freeing tens of GiB of weights takes a second or two."""

KERNELS_MAX = "128"
"""Compiled matrix products of one engine process: those of 25 different batch sizes."""

EXIT_POLL_S = 0.005
"""How often the exit status is asked for in that time."""

# The child gets the parent's own import path and nothing of its __main__.
_ENTRY = """
import sys
sys.path[:] = sys.argv[1].split(sys.argv[2])
from node.engine.worker_main import main
main(int(sys.argv[3]), int(sys.argv[4]))
"""


@dataclass(slots=True)
class _Pending:
    future: asyncio.Future[Any]
    decode: Callable[[Any], Any]
    deadline: asyncio.TimerHandle


class WorkerProcess(asyncio.Protocol):
    """A child process and the requests it has not answered. Made by `spawn`."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.channel = channel
        self.gone = asyncio.Event()
        """Set once the process is reaped; every later request raises EngineDied."""
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._pending: dict[int, _Pending] = {}
        self._ids = itertools.count()
        self._received = bytearray()
        self._reason = ""
        self._is_killed_by_us = False
        self._burial: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(cls, *, threads: int) -> "WorkerProcess":
        """Start a child that waits for LOAD. `threads` bounds its compute libraries' pools."""
        ours, theirs = socket.socketpair()
        channel = Channel.create()
        process = None
        try:
            with theirs:
                process = _start_child(theirs.fileno(), channel.descriptor, threads)
            worker = cls(process, channel)
            await worker._loop.create_unix_connection(lambda: worker, sock=ours)
        except BaseException as error:
            ours.close()
            channel.close()
            if process is not None:
                process.kill()
                process.wait(EXIT_WAIT_S)
            if isinstance(error, OSError):
                raise EngineDied(f"The engine's process did not start: {error}") from error
            raise
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def request(
        self, operation: Operation, payload: object, decode: Callable[[Any], T], timeout_s: float
    ) -> "asyncio.Future[T]":
        """Send one request; `decode` runs on the reply as soon as it is read.

        The future raises the child's EngineError, or EngineDied. Without a reply in `timeout_s`
        the child is killed: it is stuck, and nothing behind the request could run either.
        """
        if self.gone.is_set():
            raise self.failure()
        if len(self._pending) >= PENDING_MAX:
            raise QueueFull(f"{PENDING_MAX} requests wait for the engine already.")
        request_id = next(self._ids)
        message = encode_message(request_id, int(operation), payload)
        future: asyncio.Future[T] = self._loop.create_future()
        future.add_done_callback(_retrieve)  # its caller may have been cancelled
        reason = f"no reply to {operation.name} within {timeout_s:g} s"
        deadline = self._loop.call_later(timeout_s, self.kill, reason)
        self._pending[request_id] = _Pending(future, decode, deadline)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(message)
        return future

    def kill(self, reason: str = "") -> None:
        """SIGKILL. The rest follows as for any other death."""
        self._reason = self._reason or reason
        if self._process.poll() is None:
            self._is_killed_by_us = True
            self._process.kill()

    def failure(self) -> EngineDied:
        """How the process ended; to be asked once it is gone."""
        code = self._process.returncode
        end = f"exited with status {code}"
        hint = "Its sequences are lost."
        if code < 0:
            end = f"was killed by {_signal_name(-code)}"
        if code == -signal.SIGKILL and not self._is_killed_by_us:
            # The kernel says nobody else why, and hardly anyone else kills that way.
            end += ", perhaps for want of memory"
            hint += f" {MEMORY_HINT}"
        reason = f": {self._reason}" if self._reason else ""
        return EngineDied(f"The engine's process {self.pid} {end}{reason}.", hint=hint)

    async def wait_gone(self) -> None:
        """Until the process is reaped and its memory let go; follows a kill or a STOP."""
        await self.gone.wait()
        if self._burial is not None:
            await self._burial

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is not registered

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._received)
            if length > MESSAGE_BYTES_MAX:
                self.kill(f"it sent a message of {length} bytes")
                return
            end = LENGTH.size + length
            if len(self._received) < end:
                return
            body = bytes(self._received[LENGTH.size : end])
            del self._received[:end]
            self._resolve(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._burial = self._loop.create_task(self._bury())

    # The rest

    def _resolve(self, body: bytes) -> None:
        request_id, error, payload = decode_message(body)
        pending = self._pending.pop(request_id)
        pending.deadline.cancel()
        if pending.future.done():
            return
        if error is not None:
            pending.future.set_exception(decode_error(error))
            return
        try:
            pending.future.set_result(pending.decode(payload))
        except Exception as failure:  # ours, and the caller must not wait for ever on it
            pending.future.set_exception(failure)

    async def _bury(self) -> None:
        """Reap the process and fail whatever waits for it."""
        deadline = self._loop.time() + EXIT_WAIT_S
        while self._process.poll() is None:
            if self._loop.time() > deadline:
                self.kill("it closed its socket and went on")
            await asyncio.sleep(EXIT_POLL_S)
        for pending in self._pending.values():
            pending.deadline.cancel()
            if not pending.future.done():
                pending.future.set_exception(self.failure())
        self._pending.clear()
        self.channel.close()
        self.gone.set()


def _start_child(
    socket_descriptor: int, memory_descriptor: int, threads: int
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        # Read once, when the compute libraries are imported; pools sized later stay too large.
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # An engine reads the directory it is given and never asks a hub for anything.
        "HF_HUB_OFFLINE": "1",
        # Large pages for weights: fewer misses, measured 11 to 18 % of a batch-1 step.
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        # Kernels are made per count of rows and kept, 1024 of them if nobody says otherwise: each
        # takes about 400 KB, and a step that finds none makes about five.
        "LRU_CACHE_CAPACITY": KERNELS_MAX,
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": KERNELS_MAX,
    }
    descriptors = (socket_descriptor, memory_descriptor)
    path = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", _ENTRY, path, os.pathsep, *map(str, descriptors)],
        stdin=subprocess.DEVNULL,
        stdout=2,  # stdout is for data; a library that prints in the child talks on stderr
        pass_fds=descriptors,
        env=environment,
    )


def _retrieve(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
