"""The harness's processes: one zygote, and what it forks. Signals go by the pid it gave."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from benchmarks.kills.channel import Channel, Message, listen

__all__ = ["Farm", "Process", "start_farm"]

ROOT: Final = Path(__file__).parents[2]
ZYGOTE_TIMEOUT_S: Final = 120.0
"""torch and transformers are imported, five shards loaded, on a machine that has other work."""
START_TIMEOUT_S: Final = 30.0
ASK_TIMEOUT_S: Final = 10.0
END_TIMEOUT_S: Final = 5.0
LOG_SHOWN_CHARS: Final = 2_000
ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
"""A pool of threads would not survive a fork."""


class Process:
    """One forked process. `hello` is what it said when it stood."""

    def __init__(
        self, name: str, life: int, pid: int, on_message: Callable[[Message], None] | None
    ) -> None:
        self.name = name
        self.life = life
        self.pid = pid
        self.on_message = on_message
        self.hello: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.channel: Channel | None = None
        self.gone = asyncio.Event()
        self.is_killed = False
        """By us; whoever ends without that has crashed."""

    async def ask(self, message: Message) -> Message:
        """Raises TimeoutError, or ConnectionError where the process is no more."""
        if self.channel is None or self.gone.is_set():
            raise ConnectionError(f"{self.name} is gone")
        return await self.channel.ask(message, timeout_s=ASK_TIMEOUT_S)

    def tell(self, message: Message) -> None:
        if self.channel is not None:
            self.channel.send(message)

    def kill(self) -> None:
        """SIGKILL, once: afterwards the pid may be another's."""
        if not self.is_killed:
            self.is_killed = True
            self._signal(signal.SIGKILL)

    def stop(self) -> None:
        if not self.is_killed:
            self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        if not self.is_killed:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if not self.gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Farm:
    """Made by `start_farm`. `logs` has a file for each process's stderr."""

    def __init__(self, directory: Path, log_level: str) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.control = directory / "control"
        self._log_level = log_level
        self.zygote: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._processes: dict[tuple[str, int], Process] = {}
        self._lives: dict[str, int] = {}
        self._open: set[Channel] = set()

    async def spawn(
        self,
        role: str,
        name: str,
        order: Message,
        on_message: Callable[[Message], None] | None = None,
        *,
        timeout_s: float = START_TIMEOUT_S,
    ) -> Process:
        """Fork a process and wait until it stands. Raises RuntimeError with the end of its log."""
        life = self._lives[name] = self._lives.get(name, 0) + 1
        zygote = await asyncio.wait_for(asyncio.shield(self.zygote), ZYGOTE_TIMEOUT_S)
        common = {"role": role, "name": name, "life": life, "log_level": self._log_level}
        forked = await zygote.ask(common | order, timeout_s=START_TIMEOUT_S)
        process = Process(name, life, forked["pid"], on_message)
        waiting = self._processes.get((name, life))
        if waiting is None:
            self._processes[name, life] = process
        else:  # it stood before its fork was told
            waiting.pid, waiting.on_message, process = forked["pid"], on_message, waiting
        await asyncio.wait([process.hello, ended := asyncio.ensure_future(process.gone.wait())],
                           timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        ended.cancel()
        if not process.hello.done():
            log = self.logs / f"{name}.log"
            said = log.read_text()[-LOG_SHOWN_CHARS:] if log.exists() else ""
            raise RuntimeError(f"{name} did not start: {said}")
        return process

    async def take(self, channel: Channel) -> None:
        """One process's line, to its end."""
        self._open.add(channel)
        try:
            await self._read(channel)
        finally:
            self._open.discard(channel)

    async def wait_ended(self) -> None:
        """Until every process has let go of its line; their ends are signals already sent."""
        deadline = asyncio.get_running_loop().time() + END_TIMEOUT_S
        while self._open and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    async def _read(self, channel: Channel) -> None:
        process: Process | None = None
        async for message in channel.messages():
            if process is not None:
                if process.on_message is not None:
                    process.on_message(message)
            elif "ended" in message:
                for other in self._processes.values():
                    if other.pid == message["ended"]:
                        other.gone.set()
            elif message.get("hello") == "zygote":
                self.zygote.set_result(channel)
            else:
                key = (message["hello"], message["life"])
                process = self._processes.setdefault(key, Process(*key, 0, None))
                process.channel = channel
                process.hello.set_result(message)
        if process is not None:
            process.gone.set()
            self._processes.pop((process.name, process.life), None)

    async def watch(self, zygote: asyncio.subprocess.Process) -> None:
        """Whoever waits for a zygote that has ended is told what it said last."""
        code = await zygote.wait()
        if not self.zygote.done():
            said = (self.logs / "zygote.log").read_text()[-LOG_SHOWN_CHARS:]
            self.zygote.set_exception(RuntimeError(f"The zygote ended with {code}: {said}"))

    def kill_all(self) -> None:
        for process in list(self._processes.values()):
            if process.pid:
                process.kill()


@contextlib.asynccontextmanager
async def start_farm(*, log_level: str = "WARNING") -> AsyncIterator[Farm]:
    """A farm in a directory of its own, ended and removed with everything that it started."""
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as name:
        farm = Farm(Path(name), log_level)
        server = await listen(farm.control, farm.take)
        with (farm.logs / "zygote.log").open("wb") as log:
            zygote = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.kills.zygote", str(farm.control), str(farm.logs),
                cwd=ROOT, env={**os.environ, **ONE_THREAD}, stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        watching = asyncio.create_task(farm.watch(zygote))
        try:
            yield farm
        finally:
            watching.cancel()
            farm.kill_all()
            if zygote.returncode is None:
                zygote.kill()
            await zygote.wait()
            await farm.wait_ended()
            server.close()
            await server.wait_closed()
