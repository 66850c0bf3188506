"""A machine among the others: dials whom it hears of, admits who proves himself, and tells.

Every member keeps one stream with every other. Its end, or five seconds without a pulse, is the end
of the membership; the connections to a silent machine are closed, so that sessions that wait for it
fail now and not when the transport gives up.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from node.cluster.address_book import AddressBook
from node.cluster.errors import ClusterError, ClusterRefused, MemberSilent
from node.cluster.handshake import PROTOCOL, ClusterSecret, accept_proof, offer_proof
from node.cluster.link import PULSE_S, Link
from node.cluster.membership import Membership
from node.cluster.own_word import OwnWord
from protocol.errors import PieceworkError
from protocol.identity import KeyPair, PeerId
from protocol.machine import MachineRecord
from transport.address import AnyAddress, known_addresses
from transport.base import Connection, Host, Stream
from transport.errors import StreamReset
from transport.lan.discovery import Sighting

__all__ = ["Gossip"]

RENEW_S: Final = 5.0
DIAL_TIMEOUT_S: Final = 4.0
HANDSHAKES_MAX: Final = 32
"""Strangers that may be proving themselves at once; more are reset."""
GOODBYE_TIMEOUT_S: Final = 1.0
GOODBYE_POLL_S: Final = 0.01

LEFT: Final = 2
"""Reset codes on a member's stream: this one is over, or another has taken its place."""
DOUBLE: Final = 3
FULL: Final = 4

log = logging.getLogger(__name__)


class Gossip:
    """Owns its streams and tasks, not the host. `start` it; `close` it before the host."""

    def __init__(
        self,
        host: Host,
        key: KeyPair,
        secret: ClusterSecret,
        record: MachineRecord,
        *,
        tell: Callable[[str], None] = log.info,
    ) -> None:
        """`record`: what this machine says of itself at first; its times are set here."""
        self.membership = Membership(host.peer_id)
        self._host = host
        self._secret = secret
        self._own = OwnWord(key, record)
        self._tell = tell
        self._book = AddressBook(host.peer_id)
        self._links: dict[PeerId, Link] = {}
        self._members: frozenset[PeerId] = frozenset()
        self._handshakes = 0
        self._is_closing = False
        self._refused: set[PeerId] = set()
        """Told of once."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewed_at = 0.0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._renew()

    def start(self) -> None:
        self._host.set_handler(PROTOCOL, self._accept)
        self._spawn(self._tick_for_ever())

    async def close(self) -> None:
        """Say goodbye to every member and end every task."""
        self._is_closing = True
        self._host.set_handler(PROTOCOL, None)
        links = list(self._links.values())
        for link in links:
            link.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                while any(link in self._links.values() for link in links):
                    await asyncio.sleep(GOODBYE_POLL_S)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What the program says and asks

    @property
    def records(self) -> tuple[MachineRecord, ...]:
        """Of every member, this machine too, in the order in which they came."""
        return self.membership.records()

    def path_kinds(self) -> dict[PeerId, str]:
        """How each member's stream travels."""
        return {peer: link.path_kind for peer, link in self._links.items()}

    def update(self, **changes: Any) -> None:
        """Say something new of this machine (fields of its record), to all and at once."""
        if self._own.change(changes):
            self._renew()

    def found(self, sighting: Sighting) -> None:
        """Discovery has seen a machine; whether it is of this cluster is for it to prove."""
        self._book.put(sighting.peer_id, sighting.addresses, self._loop.time())
        self._dial_due()

    def lost(self, peer: PeerId) -> None:
        """Discovery has lost it; a member stays one as long as its stream stands."""
        self._book.remove(peer)

    async def wait_change(self, timeout_s: float) -> None:
        """Until a member, or what one says, has changed; or until `timeout_s` has passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()

    # Streams

    async def _accept(self, stream: Stream) -> None:
        """A machine has opened a stream: whoever proves himself is a member."""
        if self._handshakes >= HANDSHAKES_MAX:
            stream.reset(FULL)
            return
        self._handshakes += 1
        try:
            joined_at_ms = await accept_proof(
                stream, self._secret, self._host.peer_id, self._own.record.joined_at_ms
            )
        except ClusterRefused as error:
            self._tell_refused(stream.peer_id, error)
            return
        finally:
            self._handshakes -= 1
        await self._run(stream, joined_at_ms, stream.peer_id)

    async def _open(self, connection: Connection) -> None:
        """Prove ourselves on a new stream, and stay until it ends."""
        stream = await connection.open_stream(PROTOCOL)
        own = self._host.peer_id
        joined_at_ms = await offer_proof(stream, self._secret, own, self._own.record.joined_at_ms)
        await self._run(stream, joined_at_ms, own)

    async def _run(self, stream: Stream, joined_at_ms: int, opener: PeerId) -> None:
        peer = stream.peer_id
        link = Link(
            stream,
            self.membership,
            joined_at_ms=joined_at_ms,
            opener=opener,
            on_news=self._on_news,
        )
        if not self._take_place(link):
            return
        try:
            await link.run()
            self._tell_end(link, "has left")
        except PieceworkError as error:
            if not (isinstance(error, StreamReset) and error.code == DOUBLE):
                self._tell_end(link, f"is gone: {error.message}")
            link.close(LEFT)
            if isinstance(error, MemberSilent):
                await self._close_connections(peer, keep=0)
        finally:
            if self._links.get(peer) is link:
                del self._links[peer]
                self.membership.unlinked(peer)
                self._notify()

    def _tell_end(self, link: Link, what: str) -> None:
        if self._links.get(link.peer_id) is link and not self._is_closing:
            name = self.membership.name_of(link.peer_id)
            self._tell(f"{name} ({link.peer_id.short}) {what}")

    def _take_place(self, link: Link) -> bool:
        """Make it the peer's one link; of two between the same runs the lower PeerId's stays."""
        peer = link.peer_id
        known = self._links.get(peer)
        is_same_run = known is not None and known.joined_at_ms == link.joined_at_ms
        if known is not None and is_same_run and known.opener < link.opener:
            link.close(DOUBLE)
            return False
        try:
            self.membership.linked(peer, link.joined_at_ms)
        except ClusterError as error:
            log.warning("%s", error)
            link.close(FULL)
            return False
        self._links[peer] = link
        if known is not None:
            known.close(DOUBLE)
            if not is_same_run:  # what the former run had open ends with it
                self._spawn(self._close_connections(peer, keep=1))
        self._refused.discard(peer)
        self._notify()
        return True

    async def _close_connections(self, peer: PeerId, *, keep: int) -> None:
        connections = [c for c in self._host.connections() if c.peer_id == peer]
        for connection in connections[: len(connections) - keep]:
            await connection.close()

    def _on_news(self) -> None:
        """Of a member, or of a machine that we are to meet."""
        self._changed.set()
        self._dial_introduced()
        members = frozenset(record.peer_id for record in self.records)
        if members != self._members:  # the others are to meet them too
            self._members = members
            self._notify()

    # Dialling

    def _dial_introduced(self) -> None:
        now = self._loop.time()
        for record in self.membership.introduced():
            self._book.put(record.peer_id, known_addresses(record.addresses), now)
        self._dial_due()

    def _dial_due(self) -> None:
        for peer, addresses in self._book.take_due(self._links.keys(), self._loop.time()):
            self._spawn(self._dial(peer, addresses))

    async def _dial(self, peer: PeerId, addresses: tuple[AnyAddress, ...]) -> None:
        ok = refused = False
        try:
            connection = await self._host.connect(peer, addresses, timeout_s=DIAL_TIMEOUT_S)
            if peer not in self._links:
                await self._open(connection)
            ok = True
        except ClusterRefused as error:
            refused = True
            self._tell_refused(peer, error)
        except PieceworkError as error:
            log.info("%s could not be joined: %s", peer.short, error)
            if peer not in self._links:  # a former run's connection may still seem to stand
                await self._close_connections(peer, keep=0)
        finally:
            self._book.dialled(peer, self._loop.time(), ok=ok, refused=refused)

    def _tell_refused(self, peer: PeerId, error: ClusterRefused) -> None:
        if peer not in self._refused and len(self._refused) < HANDSHAKES_MAX:
            self._refused.add(peer)
            self._tell(str(error))

    # Time

    async def _tick_for_ever(self) -> None:
        while True:
            now = self._loop.time()
            for peer in self.membership.expire(now):
                if link := self._links.get(peer):
                    link.close(LEFT)
            self._dial_introduced()
            if now >= self._renewed_at + RENEW_S:
                self._renew()
            await asyncio.sleep(PULSE_S)

    def _renew(self) -> None:
        """Sign what this machine says, as of now, and send it."""
        envelope = self._own.sign([str(address) for address in self._host.addresses])
        self._renewed_at = self._loop.time()
        self.membership.set_own(self._own.record, envelope, self._renewed_at)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        for link in self._links.values():
            link.wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
