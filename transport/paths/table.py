"""The paths beside UDP that a host knows: circuits of forwarders, and tunnels; sends to any path.

A FORWARDED datagram is believed only from the relay and for the circuit that somebody here bound:
nobody else can pretend to be a path. What comes out of one is never unwrapped again.
"""

from collections.abc import Callable, Sequence
from typing import Final

from protocol.datagram import FORWARDED_HEADER_BYTES, DatagramType, forwarded
from protocol.errors import LocalProtocolError
from transport.paths.path_address import CircuitPath, PathAddress, TunnelPath
from transport.udp.udp_socket import SocketAddress, UdpSocket

__all__ = ["PATHS_MAX", "PathTable", "TunnelSender"]

PATHS_MAX: Final = 2048
"""Circuits, and tunnels: twice the connections a host may have (one dying, one taking over)."""

TunnelSender = Callable[[list[bytes]], None]
"""Takes datagrams for the other end; neither waits nor raises. What it cannot take is lost."""


class PathTable:
    """Owned by one endpoint."""

    def __init__(self, udp: UdpSocket) -> None:
        self._udp = udp
        self._circuits: dict[tuple[SocketAddress, bytes], CircuitPath] = {}
        self._tunnels: dict[TunnelPath, TunnelSender] = {}
        self.unsendable_count = 0
        """Datagrams for a tunnel that is not there (any more)."""

    def add_circuit(self, path: CircuitPath) -> None:
        """Believe what comes through it. Raises LocalProtocolError at the limit."""
        _check_room(len(self._circuits))
        self._circuits[path.relay, path.circuit] = path

    def remove_circuit(self, path: CircuitPath) -> None:
        self._circuits.pop((path.relay, path.circuit), None)

    def add_tunnel(self, path: TunnelPath, send: TunnelSender) -> None:
        """Raises LocalProtocolError at the limit."""
        _check_room(len(self._tunnels))
        self._tunnels[path] = send

    def remove_tunnel(self, path: TunnelPath) -> None:
        self._tunnels.pop(path, None)

    def has_tunnel(self, path: TunnelPath) -> bool:
        return path in self._tunnels

    def unwrap(self, data: bytes, source: SocketAddress) -> tuple[bytes, CircuitPath] | None:
        """What is inside a FORWARDED, and the circuit it came by; None if that is none of ours."""
        path = self._circuits.get((source, data[1:FORWARDED_HEADER_BYTES]))
        inner = data[FORWARDED_HEADER_BYTES:]
        if path is None or not inner or inner[0] == DatagramType.FORWARDED:
            return None
        return inner, path

    def send(self, datagrams: Sequence[bytes], path: PathAddress) -> None:
        """Send all to one path; equal sizes stay equal, so the kernel can segment them."""
        if isinstance(path, tuple):
            self._udp.send(datagrams, path)
        elif isinstance(path, CircuitPath):
            circuit = path.circuit
            self._udp.send([forwarded(circuit, data) for data in datagrams], path.relay)
        elif (send := self._tunnels.get(path)) is not None:
            send(list(datagrams))
        else:
            self.unsendable_count += len(datagrams)


def _check_room(count: int) -> None:
    if count >= PATHS_MAX:
        raise LocalProtocolError(f"A host keeps at most {PATHS_MAX} circuits, and tunnels.")
