"""The process between all peers: takes datagrams at their fronts, hands them on when they are due.

Peer b is known to the others by an address of this process, its front. What peer a sends there
leaves, later, from a's front to b's home: so b answers a's front, both directions are delayed, and
no peer ever learns where another really is. Commands come as lines of JSON on stdin:

    {"conditions": {...}}   change them; answered by {}
    {"count": true}         answered by {"source-target": {datagrams, bytes, lost, overflowed}}

A way takes as long as it says, whatever this process does: the kernel tells when a datagram came,
and how late those before were at their targets is made up for. select() waits to the microsecond,
where epoll and uvloop wait whole milliseconds.
"""

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import sys
from dataclasses import asdict
from time import monotonic, time
from typing import Final

from benchmarks.wan.delay import Conditions, Lines
from benchmarks.wan.namespace import PORT, front_of, home_of
from transport.udp.udp_socket import enlarge_buffers, open_udp

__all__ = ["main"]

READS_MAX: Final = 64
"""Datagrams of one socket before the next is looked at and what is due is sent."""

DATAGRAM_BYTES_MAX: Final = 9216
BUFFER_BYTES: Final = 8 << 20
IDLE_S: Final = 1.0
PRIORITY: Final = -15
"""The line stands for cables: it should not wait for a processor."""

PR_SET_TIMERSLACK: Final = 29

SO_TIMESTAMPNS: Final = 35
TIMESPEC: Final = struct.Struct("=qq")
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(TIMESPEC.size)

EARLY_MAX_S: Final = 0.0005
"""What may be made up for: how late the kernel wakes this process, and how long sending takes."""

LEARNING: Final = 0.1


class Fronts:
    """The sockets, and where what comes to each of them goes."""

    def __init__(self, peers: int, lines: Lines) -> None:
        self._lines = lines
        self._sockets = [_open(front_of(peer)) for peer in range(peers)]
        self._homes = [(home_of(peer), PORT) for peer in range(peers)]
        self._peer_at = {home: peer for peer, home in enumerate(self._homes)}
        self._target_of = {opened.fileno(): n for n, opened in enumerate(self._sockets)}

    @property
    def readable(self) -> list[int]:
        return list(self._target_of)

    def take(self, descriptor: int) -> None:
        """Put what has come to a front into its sender's line; strangers' datagrams are dropped."""
        target = self._target_of[descriptor]
        receive, accept = self._sockets[target].recvmsg, self._lines.accept
        clocks_apart = time() - monotonic()
        with contextlib.suppress(BlockingIOError):
            for _ in range(READS_MAX):
                data, ancillary, _, address = receive(DATAGRAM_BYTES_MAX, ANCILLARY_BYTES)
                source = self._peer_at.get(address)
                if source is not None:
                    seconds, nanoseconds = TIMESPEC.unpack(ancillary[0][2])
                    came_at = seconds + nanoseconds * 1e-9 - clocks_apart
                    accept(source, target, data, came_at)

    def hand_over(self, early_s: float) -> float | None:
        """Send everything due within `early_s`, each datagram from its sender's front.

        How late the first of them was at its target's socket; None if there was none.
        """
        late_s = None
        for arrival in self._lines.due(monotonic() + early_s):
            # a full or closed socket at the far end loses it, as a wire would
            with contextlib.suppress(OSError):
                self._sockets[arrival.source].sendto(arrival.data, self._homes[arrival.target])
            if late_s is None:
                late_s = monotonic() - arrival.due
        return late_s


def main(peers: int) -> None:
    """Serve until stdin ends."""
    _be_prompt()
    lines = Lines(Conditions())
    fronts = Fronts(peers, lines)
    commands = sys.stdin.fileno()
    print("ready", flush=True)
    watched = [commands, *fronts.readable]
    early_s = 0.0
    while True:
        due = lines.next_due
        asked_at = monotonic() + IDLE_S if due is None else due - early_s
        ready, _, _ = select.select(watched, (), (), max(0.0, asked_at - monotonic()))
        for descriptor in ready:
            if descriptor != commands:
                fronts.take(descriptor)
            elif not _obey(sys.stdin.readline(), lines):
                return
        late_s = fronts.hand_over(early_s)
        if late_s is not None and due is not None:
            early_s = min(EARLY_MAX_S, max(0.0, early_s + LEARNING * late_s))


def _obey(line: str, lines: Lines) -> bool:
    """One command; False at the end of stdin."""
    if not line:
        return False
    command = json.loads(line)
    answer: dict[str, object] = {}
    if "conditions" in command:
        lines.conditions = Conditions(**command["conditions"])
    if "count" in command:
        answer = {f"{a}-{b}": asdict(counts) for (a, b), counts in lines.counts.items()}
    print(json.dumps(answer), flush=True)
    return True


def _open(host: str) -> socket.socket:
    opened = open_udp(is_ipv6=False)
    enlarge_buffers(opened, BUFFER_BYTES)
    opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    opened.bind((host, PORT))
    return opened


def _be_prompt() -> None:
    """Timers without the 50 µs the kernel may add, and a priority above the peers' if allowed."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)


if __name__ == "__main__":
    main(int(sys.argv[1]))
