"""A link with what carries it: its sides of circuits, its tunnel, and the end of them all."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, Final

from protocol.datagram import LINK_BYTES
from protocol.errors import LocalProtocolError
from protocol.identity import PeerId
from protocol.reach import CircuitSide
from transport.base import PathKind
from transport.control.base import ControlStream
from transport.paths.link import Link
from transport.paths.path_address import CircuitPath, TunnelPath
from transport.paths.probing import Probing
from transport.reach.tunnel import Tunnel

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
        self._probing = probing
        self._tunnel: tuple[TunnelPath, Tunnel] | None = None
        self._ending: set[Tunnel] = set()
        """Tunnels that carry nothing any more and are not yet free."""
        self.link = Link(
            probing, link_id, key, peer_id,
            is_initiator=is_initiator, on_want_signal=on_want_signal, on_over=self._on_over,
        )  # fmt: skip

    @property
    def has_tunnel(self) -> bool:
        return self._tunnel is not None

    def is_tunnel_heard(self, within_s: float) -> bool:
        """Whether something came out of the tunnel so lately: then what carries it lives."""
        tunnel = self._tunnel
        return tunnel is not None and monotonic() - tunnel[1].heard_at < within_s

    def use_circuits(self, sides: Sequence[CircuitSide]) -> None:
        """Bind our side of these circuits, and of no others, and use them as paths.

        A relay that our socket cannot name is left out. Raises LocalProtocolError when the host
        has too many circuits.
        """
        named: dict[CircuitPath, CircuitSide] = {}
        for side in sides:
            address = self._probing.endpoint.udp.to_socket_address(side.host, side.port)
            if address is not None:
                named[CircuitPath(address, side.circuit)] = side
        for binding in self.link.circuits:
            if binding.path not in named:
                self.link.remove_path(binding.path, "its circuit was given up for another")
        for path, side in named.items():
            self.link.add_circuit(path, side.side, side.secret)

    def add_tunnel(
        self, stream: ControlStream, *, rest: bytes = b"", opening: bytes = b""
    ) -> Tunnel:
        """Carry datagrams in `stream` from now on, instead of in an older one.

        `opening` is written first; `rest` was read already. The stream is the tunnel's from here.
        Raises LocalProtocolError when the host has too many.
        """
        self.remove_tunnel("replaced by a newer one")
        endpoint, path = self._probing.endpoint, TunnelPath(next(_numbers))
        tunnel = Tunnel(
            stream,
            lambda datagrams: endpoint.inject(datagrams, path),
            lambda reason: self._on_tunnel_end(path, reason),
            rest=rest,
            opening=opening,
        )
        self._tunnel = (path, tunnel)
        try:
            endpoint.register_tunnel(path, tunnel.send)
        except LocalProtocolError:
            self.remove_tunnel("the host has too many")
            raise
        self.link.add_path(path, PathKind.RELAYED)
        return tunnel

    def remove_tunnel(self, reason: str) -> None:
        if self._tunnel is not None:
            self._tunnel[1].end(reason)

    async def while_alive(self, work: Coroutine[Any, Any, None]) -> None:
        """Do that, or as much of it as is done when the link is over. Raises what it raises."""
        working = asyncio.create_task(work)
        over = asyncio.create_task(self.over.wait())
        try:
            await asyncio.wait((working, over), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            working.cancel()
            over.cancel()
            await asyncio.gather(working, over, return_exceptions=True)

    def rebind(self) -> None:
        """Our NAT may have given the circuits other addresses: tell the relays."""
        for binding in self.link.circuits:
            binding.rebind()

    async def close(self) -> None:
        """End the link, if it has not, and give back all that it has."""
        self.link.close()
        self.remove_tunnel("the link is over")
        await asyncio.gather(*(tunnel.wait_ended() for tunnel in self._ending))

    def _on_tunnel_end(self, path: TunnelPath, reason: str) -> None:
        self._probing.endpoint.remove_tunnel(path)
        if self._tunnel is not None and self._tunnel[0] == path:
            tunnel, self._tunnel = self._tunnel[1], None
            self._ending.add(tunnel)
            tunnel.on_freed(self._ending.discard)
        self.link.remove_path(path, reason)

    def _on_over(self, reason: str) -> None:
        self.over.set()
