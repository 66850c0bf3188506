"""A link with all that it owns: its circuits' bindings, its tunnel, and the end of them all."""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from protocol.datagram import LINK_BYTES
from protocol.errors import LocalProtocolError
from protocol.identity import PeerId
from protocol.reach import CircuitSide
from transport.base import PathKind
from transport.control_base import ControlStream
from transport.link import Link
from transport.path_address import CircuitPath, TunnelPath
from transport.probing import Probing
from transport.tunnel import Tunnel

__all__ = ["ReachLink"]

_numbers: Final = itertools.count(1)
"""Tunnels of this process; a number is never used twice."""


class ReachLink:
    """Made by either side of signalling. `over` is set when the link has ended."""

    def __init__(
        self,
        probing: Probing,
        link_id: bytes,
        key: bytes,
        peer_id: PeerId,
        *,
        is_initiator: bool,
        on_want_signal: Callable[[str], None],
    ) -> None:
        """Raises LocalProtocolError as Link does."""
        assert len(link_id) == LINK_BYTES, "checked where it was decoded or drawn"
        self.over = asyncio.Event()
        self.owned = AsyncExitStack()
        """Closed with the link: whoever lends it something pushes its end here."""
        self._probing = probing
        self._tunnel: tuple[TunnelPath, Tunnel] | None = None
        self.link = Link(
            probing, link_id, key, peer_id,
            is_initiator=is_initiator, on_want_signal=on_want_signal, on_over=self._on_over,
        )  # fmt: skip

    @property
    def has_tunnel(self) -> bool:
        return self._tunnel is not None

    def add_circuit(self, side: CircuitSide) -> None:
        """Bind our side of a circuit and use it as a path. A relay we cannot name is left out."""
        address = self._probing.endpoint.udp.to_socket_address(side.host, side.port)
        if address is not None:
            self.link.add_circuit(CircuitPath(address, side.circuit), side.side, side.secret)

    def add_tunnel(self, stream: ControlStream, rest: bytes = b"") -> None:
        """Carry datagrams in `stream` from now on, instead of in an older one."""
        self.remove_tunnel("replaced by a newer one")
        endpoint, path = self._probing.endpoint, TunnelPath(next(_numbers))
        tunnel = Tunnel(
            stream,
            lambda datagrams: endpoint.inject(datagrams, path),
            lambda reason: self._on_tunnel_end(path, reason),
            rest=rest,
        )
        try:
            endpoint.register_tunnel(path, tunnel.send)
        except LocalProtocolError:
            self.owned.push_async_callback(tunnel.close)
            raise
        self._tunnel = (path, tunnel)
        self.owned.push_async_callback(tunnel.close)
        self.link.add_path(path, PathKind.RELAYED)

    def remove_tunnel(self, reason: str) -> None:
        if self._tunnel is not None:
            self._on_tunnel_end(self._tunnel[0], reason)

    def rebind(self) -> None:
        """Our NAT may have given the circuits other addresses: tell the relays."""
        for binding in self.link.circuits:
            binding.rebind()

    async def close(self) -> None:
        """End the link, if it has not, and give back all that it owns."""
        self.link.close()
        self.remove_tunnel("the link is over")
        await self.owned.aclose()

    def _on_tunnel_end(self, path: TunnelPath, reason: str) -> None:
        self._probing.endpoint.remove_tunnel(path)
        self.link.remove_path(path, reason)
        if self._tunnel is not None and self._tunnel[0] == path:
            self._tunnel = None

    def _on_over(self, reason: str) -> None:
        self.over.set()
