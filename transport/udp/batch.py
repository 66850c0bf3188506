"""A UDP socket for a program that carries much of other people's: whole runs in, whole runs out.

A run is consecutive datagrams of one source, all of one size but the last, which may be shorter.
`udp_reads` makes them and `udp_sends` sends them; what cannot be had from the kernel is done one
by one, with the same result.
"""

import socket
import struct
import sys
from dataclasses import dataclass
from typing import Final

from transport.udp.reads import Run, RunReader
from transport.udp.sends import RunSender
from transport.udp.udp_socket import SocketAddress, enlarge_buffers, open_udp

__all__ = ["BatchSocket", "BatchStatistics", "Run"]

_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")
_MEMINFO_DROPS: Final = 8


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """Since the socket was opened. A read or send is one system call."""

    reads: int
    datagrams_received: int
    bytes_received: int
    sends: int
    datagrams_sent: int
    bytes_sent: int
    empty_dropped: int
    """Received with no content."""
    overflow_dropped: int
    """By the kernel before we read them, where it says so; what it had merged counts as one."""
    too_long_dropped: int
    """Above the MTU of the route to their target."""
    send_failed: int
    """Not taken for another reason: buffer full, no route."""


class BatchSocket:
    """Non-blocking and unconnected; used in one event loop only."""

    def __init__(self, host: str, port: int, buffer_bytes: int) -> None:
        """Bind. `host` is a literal address; '::' also serves IPv4. Raises OSError."""
        self._socket = open_udp(":" in host)
        try:
            enlarge_buffers(self._socket, buffer_bytes)
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self._reader = RunReader(self._socket)
        self._sender = RunSender(self._socket)
        self.queue = self._sender.queue
        """Called for every run, so without a step between; see RunSender."""

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def is_drained(self) -> bool:
        """Whether the last `receive` left nothing waiting."""
        return self._reader.is_drained

    @property
    def is_merging(self) -> bool:
        """Whether the kernel merges now what it hands over."""
        return self._reader.is_merging

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; what is queued is not sent."""
        self._sender.clear()
        self._socket.close()

    def receive(self) -> list[Run]:
        """The next batch, in order of arrival; its memory is good until the next `receive`."""
        return self._reader.receive()

    def send(self, datagram: bytes, address: SocketAddress) -> None:
        """One datagram, with the next `flush`."""
        self._sender.queue(memoryview(datagram), len(datagram), address)

    def flush(self) -> None:
        """Send what is queued. What the kernel does not take is lost, as on the wire."""
        self._sender.flush()

    def statistics(self) -> BatchStatistics:
        reader, sender = self._reader, self._sender
        return BatchStatistics(
            reads=reader.reads,
            datagrams_received=reader.datagrams,
            bytes_received=reader.bytes,
            sends=sender.sends,
            datagrams_sent=sender.datagrams,
            bytes_sent=sender.bytes,
            empty_dropped=reader.empty,
            overflow_dropped=self._overflow_count(),
            too_long_dropped=sender.too_long,
            send_failed=sender.failed,
        )

    def _overflow_count(self) -> int:
        """From the socket's own counter: asking here costs nothing on the way of the data."""
        if sys.platform != "linux":
            return 0
        try:
            counters = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return 0
        if len(counters) < _MEMINFO.size:
            return 0
        drops: int = _MEMINFO.unpack(counters)[_MEMINFO_DROPS]
        return drops
