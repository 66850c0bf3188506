"""Sending on a UDP socket in runs: many datagrams to one address in one system call.

Linux cuts one send into equal datagrams (UDP_SEGMENT, udp(7)), only the last of which may be
shorter. Elsewhere, and where a kernel or a route refuses, they go one by one.
"""

import errno
import logging
import socket
import struct
import sys
from functools import lru_cache
from typing import Final

from transport.udp.udp_socket import SocketAddress

__all__ = ["RunSender"]

log = logging.getLogger(__name__)

_UDP_SEGMENT: Final = 103
_SEGMENTS_MAX: Final = 64
"""Kernels before 6.9 take no more in one send."""
_SEGMENTED_BYTES_MAX: Final = 64_400
"""A send must fit an IP packet's 16-bit length with all headers."""
_SIZES_REMEMBERED: Final = 256
"""Segment sizes for which what follows from them is kept ready; flows have few."""
_REFUSED: Final = (errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
"""No checksum offload on the way out, or no such option: it will not get better."""
_UNFIT: Final = (errno.EINVAL, errno.EMSGSIZE)
"""This run does not fit its route (a segment above the MTU); some of its datagrams may."""


class _Pending:
    """One send in the making, to one address."""

    __slots__ = ("parts", "room", "segment_bytes", "size")

    def __init__(self, view: memoryview, segment_bytes: int) -> None:
        self.parts = [view]
        self.segment_bytes = segment_bytes
        self.size = size = len(view)
        # a shorter datagram is the last of a segmented send
        self.room = 0 if size % segment_bytes else _run_bytes_max(segment_bytes) - size


class RunSender:
    """The sending half of a BatchSocket; the socket is its owner's."""

    def __init__(self, target: socket.socket) -> None:
        self._socket = target
        self._pending: dict[SocketAddress, _Pending] = {}
        self.can_segment = sys.platform == "linux" and _knows_segments(target)
        self.sends = self.datagrams = self.bytes = self.too_long = self.failed = 0

    def queue(self, view: memoryview, segment_bytes: int, address: SocketAddress) -> None:
        """Send a run to `address` with the next `flush`, after what is queued for it already.

        `view` must stay as it is until then. Runs to one address share a send where sizes allow.
        """
        pending = self._pending.get(address)
        size = len(view)
        if pending is not None:
            if size <= pending.room and (
                segment_bytes == pending.segment_bytes
                or size == segment_bytes < pending.segment_bytes
            ):
                pending.parts.append(view)
                pending.size += size
                pending.room = 0 if size % pending.segment_bytes else pending.room - size
                return
            self._send(pending.parts, pending.size, pending.segment_bytes, address)
        size_max = _run_bytes_max(segment_bytes)
        while size > size_max:
            self._send([view[:size_max]], size_max, segment_bytes, address)
            view = view[size_max:]
            size -= size_max
        self._pending[address] = _Pending(view, segment_bytes)

    def flush(self) -> None:
        """Send what is queued. What the kernel does not take is lost, as on the wire."""
        for address, pending in self._pending.items():
            self._send(pending.parts, pending.size, pending.segment_bytes, address)
        self._pending.clear()

    def clear(self) -> None:
        self._pending.clear()

    def _send(
        self, parts: list[memoryview], size: int, segment_bytes: int, address: SocketAddress
    ) -> None:
        if size <= segment_bytes:
            self._send_one(parts[0], address)
        elif not self.can_segment or not self._send_segmented(parts, size, segment_bytes, address):
            for part in parts:
                for start in range(0, len(part), segment_bytes):
                    self._send_one(part[start : start + segment_bytes], address)

    def _send_segmented(
        self, parts: list[memoryview], size: int, segment_bytes: int, address: SocketAddress
    ) -> bool:
        """False if it may go one by one, and nothing of it has gone yet."""
        count = -(-size // segment_bytes)
        try:
            self._socket.sendmsg(parts, _control(segment_bytes), 0, address)
        except OSError as error:
            if error.errno in _REFUSED:
                log.warning("the kernel refused segmented sends (%s); sending one by one", error)
                self.can_segment = False
                return False
            if error.errno in _UNFIT:
                return False
            self._note_failure(error, count)
            return True
        self.sends += 1
        self.datagrams += count
        self.bytes += size
        return True

    def _send_one(self, datagram: memoryview, address: SocketAddress) -> None:
        try:
            self._socket.sendto(datagram, address)
        except OSError as error:
            self._note_failure(error, 1)
            return
        self.sends += 1
        self.datagrams += 1
        self.bytes += len(datagram)

    def _note_failure(self, error: OSError, count: int) -> None:
        if error.errno == errno.EMSGSIZE:
            self.too_long += count
            return
        self.failed += count
        if not isinstance(error, BlockingIOError):
            log.debug("send failed: %s", error)


@lru_cache(_SIZES_REMEMBERED)
def _run_bytes_max(segment_bytes: int) -> int:
    """What one send of such segments may hold: a whole number of them, at least one."""
    count = min(_SEGMENTS_MAX, _SEGMENTED_BYTES_MAX // segment_bytes)
    return max(1, count) * segment_bytes


@lru_cache(_SIZES_REMEMBERED)
def _control(segment_bytes: int) -> list[tuple[int, int, bytes]]:
    return [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("H", segment_bytes))]


def _knows_segments(target: socket.socket) -> bool:
    """Asked beforehand: kernels before 4.18 ignore the control message and send one huge datagram.

    A size of 0 means that each send says its own.
    """
    try:
        target.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
    except OSError:
        return False
    return True
