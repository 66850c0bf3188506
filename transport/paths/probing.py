"""Who gets a datagram of our own (protocol/datagram.py) that arrived at the data socket.

PROBE and PROBED go to their link, REFLECTED to whoever asked, BOUND to the circuit's binding;
FORWARDED never comes here, the endpoint unwraps it. Everything else is dropped and counted: these
bytes are strangers'.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, Protocol

from protocol.datagram import CIRCUIT_BYTES, LINK_BYTES, Bound, DatagramType, Reflected
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from transport.paths.path_address import CircuitPath, PathAddress
from transport.quic.connection import QuicConnection
from transport.quic.endpoint import Endpoint
from transport.udp.udp_socket import SocketAddress

__all__ = ["LINKS_MAX", "LinkReceiver", "Probing", "ProbingCounts"]

LINKS_MAX: Final = 2048
"""Twice the connections a host may have: a dying link and the one that takes over."""

WAITING_MAX: Final = 256
"""Questions to reflectors under way, and circuits bound: a node asks a handful at a time."""

BoundHandler = Callable[[bytes, Bound], None]
"""Takes the datagram, for its MAC, and its fields."""


class LinkReceiver(Protocol):
    """A link, as the dispatcher sees it."""

    @property
    def link_id(self) -> bytes: ...
    @property
    def peer_id(self) -> PeerId: ...

    def receive(self, data: bytes, source: PathAddress, now: float) -> None:
        """A PROBE or PROBED with this link's id. Raises RemoteProtocolError if malformed."""

    def offer(self, connection: QuicConnection) -> bool:
        """A verified incoming connection of this peer; True if the link takes it over."""


@dataclass(slots=True)
class ProbingCounts:
    """What was dropped since the start, by reason."""

    malformed: int = 0
    unknown_link: int = 0
    unexpected: int = 0
    """An answer nobody waits for, or a question that only relays answer."""


class Probing:
    """One per endpoint, whose two handlers it takes."""

    def __init__(self, endpoint: Endpoint) -> None:
        if endpoint.own_packet_handler is not None:
            raise LocalProtocolError("The endpoint's own datagrams have a receiver already.")
        self.endpoint = endpoint
        self._counts = ProbingCounts()
        self._links: dict[bytes, LinkReceiver] = {}
        self._reflections: dict[bytes, Callable[[Reflected, SocketAddress], None]] = {}
        self._circuits: dict[tuple[SocketAddress, bytes], BoundHandler] = {}
        endpoint.own_packet_handler = self._take
        endpoint.verified_handler = self._on_verified

    @property
    def counts(self) -> ProbingCounts:
        return replace(self._counts)

    # Who waits for what

    def add_link(self, link: LinkReceiver) -> None:
        """Raises LocalProtocolError at the limit, or if that id is in use."""
        if len(self._links) >= LINKS_MAX:
            raise LocalProtocolError(f"A host keeps at most {LINKS_MAX} links.")
        if link.link_id in self._links:
            raise LocalProtocolError("A link with that id is there already.")
        self._links[link.link_id] = link

    def remove_link(self, link: LinkReceiver) -> None:
        if self._links.get(link.link_id) is link:
            del self._links[link.link_id]

    def expect_reflected(
        self, transaction: bytes, handler: Callable[[Reflected, SocketAddress], None]
    ) -> None:
        """`handler` gets the answer and the address it came from. Forget it again."""
        if len(self._reflections) >= WAITING_MAX:
            raise LocalProtocolError(f"At most {WAITING_MAX} reflectors are asked at once.")
        self._reflections[transaction] = handler

    def forget_reflected(self, transaction: bytes) -> None:
        self._reflections.pop(transaction, None)

    def add_circuit(self, path: CircuitPath, handler: BoundHandler) -> None:
        """Believe the circuit, and hand its BOUNDs to `handler`."""
        self.endpoint.paths.add_circuit(path)
        self._circuits[path.relay, path.circuit] = handler

    def remove_circuit(self, path: CircuitPath) -> None:
        self.endpoint.paths.remove_circuit(path)
        self._circuits.pop((path.relay, path.circuit), None)

    # What arrives

    def _take(self, data: bytes, source: PathAddress) -> None:
        try:
            self._dispatch(data, source)
        except RemoteProtocolError:
            self._counts.malformed += 1

    def _dispatch(self, data: bytes, source: PathAddress) -> None:
        kind = data[0]
        if kind in (DatagramType.PROBE, DatagramType.PROBED):
            link = self._links.get(data[1 : 1 + LINK_BYTES])
            if link is None:
                self._counts.unknown_link += 1
            else:
                link.receive(data, source, monotonic())
        elif kind == DatagramType.REFLECTED and isinstance(source, tuple):
            reflected = Reflected.decode(data)
            if (waiting := self._reflections.get(reflected.transaction)) is None:
                self._counts.unexpected += 1
            else:
                waiting(reflected, source)
        elif kind == DatagramType.BOUND and isinstance(source, tuple):
            binding = self._circuits.get((source, data[1 : 1 + CIRCUIT_BYTES]))
            if binding is None:
                self._counts.unexpected += 1
            else:
                binding(data, Bound.decode(data))
        else:
            self._counts.unexpected += 1

    def _on_verified(self, connection: QuicConnection) -> None:
        if connection.core.is_client or connection.keeper is not None:
            return
        for link in tuple(self._links.values()):
            if link.peer_id == connection.peer_id and link.offer(connection):
                return
