"""A process of the marketplace that is killed and started again; each life has a log of its own."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Program", "console_script", "die_with_parent"]

TAIL_LINES = 25
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Nothing is left behind, even where the supervisor itself is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def console_script(name: str) -> str:
    """A program of this installation, as a person would start it."""
    return str(Path(sys.executable).parent / name)


class Program:
    """One command line, run again and again. Its process leads a group of its own."""

    def __init__(
        self,
        name: str,
        role: str,
        command: Sequence[str],
        logs: Path,
        env: Mapping[str, str],
    ) -> None:
        self.name = name
        self.role = role
        """What it is, where there are several of it."""
        self.lives = 0
        self.failpoint = ""
        """With which this life was started, as NAME:COUNT; empty for none."""
        self.started_at = 0.0
        self._command = list(command)
        self._env = dict(env)
        self._logs = logs
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, failpoint: str = "") -> None:
        """A new life; it dies at `failpoint`, if it comes there."""
        self.lives += 1
        self.failpoint = failpoint
        self.started_at = time.monotonic()
        env = os.environ | self._env
        env.pop("PIECEWORK_FAILPOINT", None)
        if failpoint:
            env["PIECEWORK_FAILPOINT"] = failpoint
        with self._log(self.lives).open("wb") as log:
            # no thread runs here, so the hook is safe
            self._process = subprocess.Popen(
                self._command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )

    @property
    def code(self) -> int | None:
        """How this life ended; None while it lives. -9 after SIGKILL."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        assert self._process is not None, "started"
        return self._process.pid

    def kill(self) -> bool:
        """SIGKILL to the group; False if it was dead already."""
        if self._process is None or self._process.poll() is not None:
            return False
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return self._process.returncode == -signal.SIGKILL

    def terminate(self) -> None:
        """SIGTERM, if it lives; it ends in its own time."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, timeout_s: float) -> int | None:
        """SIGTERM, and SIGKILL after `timeout_s`; the exit code."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.returncode

    def said(self) -> str:
        """What this life has said so far."""
        return self._log(self.lives).read_text(errors="replace")

    def tail(self) -> str:
        """The end of this life's log."""
        return "\n".join(self.said().splitlines()[-TAIL_LINES:])

    def drop_log(self) -> None:
        """A life that ended as it should has nothing to tell."""
        self._log(self.lives).unlink(missing_ok=True)

    def _log(self, life: int) -> Path:
        return self._logs / f"{self.name}.{life}.log"
