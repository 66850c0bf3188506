"""The one UDP socket of a host: batched reads, segmented writes (UDP GSO), counters.

Knows nothing of QUIC. Linux sends many equal datagrams in one system call (udp(7), UDP_SEGMENT);
elsewhere, or where the kernel refuses, they go one by one.
"""

import errno
import logging
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["SocketAddress", "UdpSocket", "UdpStatistics", "enlarge_buffers", "has_ipv6", "open_udp"]

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""As the socket module gives it: (host, port) for IPv4, (host, port, flow, scope) for IPv6."""

log = logging.getLogger(__name__)

_UDP_SEGMENT: Final = 103
_SEGMENTS_MAX: Final = 44
"""Kernels before 6.9 take 64 segments; the smallest limit seen on the way is 44 (64 000/1452)."""
_SEGMENTED_BYTES_MAX: Final = 65_000
"""One segmented send must fit an IP packet's 16-bit length."""
_RECEIVE_BYTES: Final = 9216
"""Above every datagram a peer of ours sends (8900); a longer one is cut and fails to decrypt."""
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_DO: Final = 2
_GSO_REFUSED: Final = (errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class UdpStatistics:
    datagrams_sent: int
    datagrams_received: int
    bytes_sent: int
    bytes_received: int
    send_failed_count: int
    """Datagrams the kernel did not take (buffer full, no route, too long): lost, as on the wire."""


class UdpSocket:
    """Non-blocking; owned by one endpoint, used in its event loop only."""

    def __init__(self, host: str, port: int, buffer_bytes: int) -> None:
        """Bind. `host` is a literal address; '::' also serves IPv4. Raises OSError."""
        self._is_ipv6 = ":" in host
        self._socket = open_udp(self._is_ipv6)
        try:
            enlarge_buffers(self._socket, buffer_bytes)
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self.can_segment = sys.platform == "linux"
        self._sent = self._received = self._bytes_sent = self._bytes_received = self._failed = 0

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def is_ipv6(self) -> bool:
        return self._is_ipv6

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self, datagrams_max: int) -> list[tuple[bytes, SocketAddress]]:
        """What has arrived, at most `datagrams_max`."""
        datagrams: list[tuple[bytes, SocketAddress]] = []
        receive, size = self._socket.recvfrom, 0
        for _ in range(datagrams_max):
            try:
                datagram = receive(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                # A queued ICMP error of an earlier send; that datagram is lost, no more.
                log.debug("receive failed: %s", error)
                break
            size += len(datagram[0])
            datagrams.append(datagram)
        self._received += len(datagrams)
        self._bytes_received += size
        return datagrams

    def send(self, datagrams: Sequence[bytes], address: SocketAddress) -> None:
        """Send all to one address. What the kernel does not take is lost, as on the wire."""
        start, count = 0, len(datagrams)
        while start < count:
            end = self._segment_end(datagrams, start) if self.can_segment else start + 1
            self._send_run(datagrams[start:end], address)
            start = end

    def statistics(self) -> UdpStatistics:
        return UdpStatistics(
            self._sent, self._received, self._bytes_sent, self._bytes_received, self._failed
        )

    def to_socket_address(self, host: str, port: int) -> SocketAddress | None:
        """How this socket names that peer, or None if it cannot reach that family."""
        if not self._is_ipv6:
            return None if ":" in host else (host, port)
        return (host, port, 0, 0) if ":" in host else (f"::ffff:{host}", port, 0, 0)

    def _segment_end(self, datagrams: Sequence[bytes], start: int) -> int:
        """Where the run of equal datagrams from `start` ends; the last may be shorter."""
        size = len(datagrams[start])
        if not size:
            return start + 1  # the kernel takes a segment size of 0 for "do not segment"
        run_max = min(_SEGMENTS_MAX, max(1, _SEGMENTED_BYTES_MAX // size))
        limit = min(len(datagrams), start + run_max)
        for index in range(start + 1, limit):
            if len(datagrams[index]) != size:
                return index + (0 < len(datagrams[index]) < size)
        return limit

    def _send_run(self, run: Sequence[bytes], address: SocketAddress) -> None:
        try:
            if len(run) == 1:
                self._socket.sendto(run[0], address)
            else:
                size = struct.pack("H", len(run[0]))
                control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, size)]
                self._socket.sendmsg(run, control, 0, address)
        except OSError as error:
            if len(run) > 1 and error.errno in _GSO_REFUSED:
                log.warning("the kernel refused segmented sends (%s); sending one by one", error)
                self.can_segment = False
                self.send(run, address)
                return
            if not isinstance(error, BlockingIOError):
                log.debug("send failed: %s", error)
            self._failed += len(run)
            return
        self._sent += len(run)
        self._bytes_sent += sum(map(len, run))


def has_ipv6() -> bool:
    """Whether this machine gives out IPv6 sockets at all; it may have no IPv6 address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as tried:
            tried.bind(("::", 0))
    except OSError:
        return False
    return True


def open_udp(is_ipv6: bool) -> socket.socket:
    """Unbound, non-blocking, never fragmenting; IPv6 ones serve IPv4 too."""
    opened = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    if is_ipv6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if sys.platform == "linux":
        # RFC 9000 section 14: QUIC datagrams must not be fragmented.
        opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        if is_ipv6:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
    return opened


def enlarge_buffers(opened: socket.socket, size: int) -> None:
    """The privileged option passes net.core.*mem_max; the plain one is cut to it."""
    for forced, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):
        try:
            if sys.platform != "linux":
                raise PermissionError
            opened.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, plain, size)
    granted = opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if granted < size:
        log.info(
            "the socket's receive buffer has %d bytes instead of %d; "
            "a larger net.core.rmem_max would lose fewer datagrams of a burst",
            granted,
            size,
        )
