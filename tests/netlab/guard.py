"""A process that outlives a laboratory's owner for a moment, to take the namespaces away.

It waits until the owner's process is gone, however that came about, or has closed the pipe.
`python -m tests.netlab.guard PREFIX OWNER_PID`, the pipe being its standard input.
"""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.netlab.namespace import NAMES, Namespace

__all__ = ["remove_all", "start_guard"]


def start_guard(prefix: str) -> "subprocess.Popen[bytes]":
    """The owner calls it first of all; closing `stdin` ends the guard after it has looked."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__, prefix, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        start_new_session=True,  # so a Ctrl-C at the terminal does not reach it
    )


def remove_all(prefix: str) -> None:
    """Every namespace whose name begins so, and what runs in them; idempotent."""
    if NAMES.exists():
        for path in NAMES.iterdir():
            if path.name.startswith(prefix):
                Namespace(path.name).remove()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the pipe alone will not do: a child that the owner has forked may hold its other end
    select.select([sys.stdin, os.pidfd_open(int(sys.argv[2]))], [], [])
    remove_all(sys.argv[1])
