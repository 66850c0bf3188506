"""A line with delay, jitter and loss between two TAP devices, carried by a process of its own.

Many kernels come without sch_netem, so frames are read from one TAP, held, and written to the
other. One process carries all the lines of a laboratory. Its owner speaks to it over a socket pair
(a JSON datagram, with the two TAPs' descriptors for a new line); it ends with its owner.
"""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import asdict
from fcntl import ioctl
from pathlib import Path
from typing import Any, Final

from tests.netlab.line import Counters, Impairment, Line
from tests.netlab.namespace import LabError, Namespace

__all__ = ["Wires"]

FRAME_BYTES_MAX: Final = 65_536
BATCH: Final = 64  # frames of one line before the others have their turn
REPLY_TIMEOUT_S: Final = 10.0
EARLY_S: Final = 20e-6  # a frame due so soon goes now: select() would oversleep it

_TUNSETIFF: Final = 0x400454CA
_IFF_TAP_NO_PI: Final = 0x0002 | 0x1000


class Wires:
    """The owner's side: starts the process with the first wire."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def add(self, ends: tuple[tuple[Namespace, str], tuple[Namespace, str]]) -> int:
        """Make a TAP at both ends and a line between them; returns its number."""
        taps = [_open_tap(namespace, interface) for namespace, interface in ends]
        try:
            self._ask({"do": "add"}, taps)
        finally:
            for tap in taps:
                os.close(tap)
        self._count += 1
        return self._count - 1

    def impair(self, wire: int, impairment: Impairment) -> None:
        self._ask({"do": "impair", "wire": wire, "how": asdict(impairment)})

    def counters(self, wire: int) -> tuple[Counters, Counters]:
        """Up and down."""
        up, down = self._ask({"do": "count", "wire": wire})
        return Counters(*up), Counters(*down)

    def close(self) -> None:
        if self._control and self._process:
            self._control.close()
            try:
                self._process.wait(REPLY_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._control = self._process = None

    def _ask(self, request: dict[str, Any], descriptors: list[int] | None = None) -> Any:
        control = self._control or self._start()
        socket.send_fds(control, [json.dumps(request).encode()], descriptors or [])
        try:
            return json.loads(control.recv(FRAME_BYTES_MAX))
        except (TimeoutError, ValueError) as error:
            raise LabError("The process that carries the wires does not answer.") from error

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        ours.settimeout(REPLY_TIMEOUT_S)
        self._control = ours
        return ours


def _open_tap(namespace: Namespace, interface: str) -> int:
    with namespace.enter():
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _IFF_TAP_NO_PI))
    return tap


def _carry(control: socket.socket, owner: int) -> None:
    """The process: until its control socket or its owner ends."""
    # TAP read from → (line, TAP written to); the wires in the order of their making
    lines: dict[int, tuple[Line, int]] = {}
    wires: list[tuple[Line, Line]] = []
    while True:
        wait = [line.held[0][0] for line, _ in lines.values() if line.held]
        timeout = max(0.0, min(wait) - time.monotonic()) if wait else None
        # select, as epoll and poll round up to whole milliseconds
        for ready in select.select([control.fileno(), owner, *lines], [], [], timeout)[0]:
            if ready == control.fileno():
                request, taps, _, _ = socket.recv_fds(control, FRAME_BYTES_MAX, 2)
                if not request:
                    return
                answer = _obey(json.loads(request), taps, lines, wires)
                control.send(json.dumps(answer).encode())
            elif ready == owner:
                return
            else:
                _read(ready, lines[ready][0])
        now = time.monotonic() + EARLY_S
        for line, sink in lines.values():
            while (frame := line.due(now)) is not None:
                try:
                    os.write(sink, frame)
                    line.carried += 1
                except OSError:  # the interface is down or gone, or its queue full
                    line.overflowed += 1


def _read(tap: int, line: Line) -> None:
    with contextlib.suppress(OSError):  # EAGAIN: all read. EBADFD: the interface is going
        for _ in range(BATCH):
            line.accept(os.read(tap, FRAME_BYTES_MAX), time.monotonic())


def _obey(
    request: dict[str, Any],
    taps: list[int],
    lines: dict[int, tuple[Line, int]],
    wires: list[tuple[Line, Line]],
) -> Any:
    if request["do"] == "add":
        up, down = Line(Impairment()), Line(Impairment())
        lines[taps[0]], lines[taps[1]] = (up, taps[1]), (down, taps[0])
        wires.append((up, down))
        return True
    pair = wires[request["wire"]]
    if request["do"] == "impair":
        for line in pair:
            line.impairment = Impairment(**request["how"])
    return [(line.carried, line.lost, line.overflowed) for line in pair]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the owner's to handle
    with contextlib.suppress(OSError):
        os.nice(-10)
    _carry(socket.socket(fileno=int(sys.argv[1])), os.pidfd_open(int(sys.argv[2])))
