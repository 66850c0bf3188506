"""A home host's control plane with its relays and links: started when it is first needed.

At once where there are relays to be reached by, else when a peer is dialled by his. A host that
stays on its LAN never starts it, and never imports the library below it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from protocol.identity import KeyPair
from transport.address import CircuitAddress, TcpAddress
from transport.control.base import ControlHost
from transport.paths.probing import Probing
from transport.reach.attachment import RelayStatus
from transport.reach.reach_link import ReachLink
from transport.reach.reacher import Reacher
from transport.reach.relays import Relays
from transport.reach.whereabouts import Whereabouts

__all__ = ["ControlFactory", "ControlPlane"]

ControlFactory = Callable[[KeyPair], Awaitable[ControlHost]]


class ControlPlane:
    """Owned by one home host. `on_change`: a relay's slot or its UDP side came, went or changed."""

    def __init__(
        self,
        key: KeyPair,
        relays: Sequence[TcpAddress],
        make: ControlFactory,
        probing: Probing,
        on_change: Callable[[], None],
    ) -> None:
        self._key = key
        self._own_relays = tuple(relays)
        self._make = make
        self._probing = probing
        self._on_change = on_change
        self._control: ControlHost | None = None
        self._relays: Relays | None = None
        self._reacher: Reacher | None = None
        self._starting: asyncio.Task[Reacher] | None = None

    @property
    def addresses(self) -> tuple[CircuitAddress, ...]:
        """Under which others reach us by relays."""
        return () if self._relays is None else self._relays.addresses

    @property
    def udp(self) -> tuple[tuple[str, int], ...]:
        """Forwarders and reflectors of our relays."""
        return () if self._relays is None else self._relays.udp

    @property
    def relay_statuses(self) -> tuple[RelayStatus, ...]:
        return () if self._relays is None else self._relays.statuses

    @property
    def links(self) -> tuple[ReachLink, ...]:
        return () if self._reacher is None else self._reacher.links

    async def start(self, whereabouts: Whereabouts) -> Reacher:
        """Once, whoever needs it first; again only where it failed, which raises what it raised."""
        if self._reacher is not None:
            return self._reacher
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(whereabouts))
            self._starting.add_done_callback(self._on_started)
        # A dial that is called off must not take the start with it: others wait for it too.
        return await asyncio.shield(self._starting)

    async def wait_settled(self, timeout_s: float) -> None:
        """Until every relay has been tried once, or the time is over."""
        if self._relays is not None:
            await self._relays.wait_settled(timeout_s)

    def network_changed(self) -> None:
        """Check relays and paths."""
        if self._relays is not None:
            self._relays.check()
        if self._reacher is not None:
            self._reacher.network_changed()

    async def close(self) -> None:
        """Links first, then relays, then what carries them; each even where another fails."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        async with contextlib.AsyncExitStack() as stack:
            for part in (self._control, self._relays, self._reacher):
                if part is not None:
                    stack.push_async_callback(part.close)

    async def _start(self, whereabouts: Whereabouts) -> Reacher:
        control = self._control = await self._make(self._key)
        relays = self._relays = Relays(control, self._own_relays, self._on_change)
        self._reacher = Reacher(control, relays, self._probing, whereabouts)
        relays.start()
        return self._reacher

    def _on_started(self, starting: asyncio.Task[Reacher]) -> None:
        self._starting = None
        if not starting.cancelled():
            starting.exception()  # seen here, in case nobody waits any more
