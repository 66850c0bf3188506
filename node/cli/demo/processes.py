"""The demo's processes: each started by the command a person would type, stopped the same way."""

import asyncio
import contextlib
import shlex
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from node.errors import NodeError

__all__ = ["ChildFailed", "Children", "free_ports"]

STOP_TIMEOUT_S = 45.0
"""Ctrl-C drains; a node gives its sessions 30 s."""
POLL_S = 0.05
LOG_TAIL_LINES = 12


Condition = Callable[[str], Awaitable[bool]]


class ChildFailed(NodeError):
    """A process of the demo ended or did not become ready."""


class _Child:
    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines)


class Children:
    """Started processes by name, with a log file each. Stops them all, last started first."""

    def __init__(self, directory: Path, tell: Callable[[str], None]) -> None:
        self._directory = directory
        self._tell = tell
        self._children: dict[str, _Child] = {}

    async def start(self, name: str, program: str, *arguments: str) -> None:
        """Run a console script of this installation."""
        executable = Path(sys.executable).parent / program
        command = [str(executable), *arguments]
        self._tell(f"$ {shlex.join([program, *arguments])}")
        log = self._directory / f"{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # the terminal's Ctrl-C is for us; we pass it on in order
            )
        self._children[name] = _Child(name, process, log)

    async def wait_until(
        self, name: str, condition: Condition, what: str, *, timeout_s: float
    ) -> None:
        """Wait until `condition(log text)` holds; raises ChildFailed with the end of its log."""
        child = self._children[name]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not await condition(child.log.read_text(errors="replace")):
                    if child.process.returncode is not None:
                        break
                    await asyncio.sleep(POLL_S)
                else:
                    return
        state = "ended" if child.process.returncode is not None else f"gave no {what} in time"
        raise ChildFailed(f"{name} {state}. The end of its log:\n{child.tail()}")

    async def run(self, program: str, *arguments: str) -> tuple[int, str]:
        """Run a command to its end; its exit code and stdout."""
        self._tell(f"$ {shlex.join([program, *arguments])}")
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def wait_any_end(self) -> str:
        """The name of the first process that ends by itself."""
        tasks = {asyncio.create_task(c.process.wait()): c.name for c in self._children.values()}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return tasks[done.pop()]

    async def stop(self) -> dict[str, int]:
        """End every process as Ctrl-C would, in the order of leaving; exit codes by name."""
        codes = {}
        for child in reversed(self._children.values()):
            codes[child.name] = await _stop(child.process)
        self._children.clear()
        return codes


async def _stop(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode


def free_ports(*wanted: int) -> Sequence[int]:
    """A TCP port nobody listens on now for each one wanted: that one where it is free.

    0 wants any. All are held at once, so that they differ.
    """
    with contextlib.ExitStack() as stack:
        return [_bind(stack.enter_context(socket.socket()), port) for port in wanted]


def _bind(listener: socket.socket, port: int) -> int:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.bind(("127.0.0.1", 0))
    bound: int = listener.getsockname()[1]
    return bound
