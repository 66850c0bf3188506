"""Control streams in memory: a relay's host, and peers who open streams to it and are called."""

import asyncio
import contextlib

from protocol.identity import KeyPair, PeerId
from transport.control.base import ControlConnection, ControlHost, ControlStream
from transport.errors import PeerGone, StreamReset

WINDOW_BYTES = 256 * 1024


class Pipe:
    """One direction; `write` waits while WINDOW_BYTES are unread, as yamux does."""

    def __init__(self):
        self.data = bytearray()
        self.is_finished = self.is_reset = False
        self.changed = asyncio.Condition()

    async def set(self, **flags):
        async with self.changed:
            for name, value in flags.items():
                setattr(self, name, value)
            self.changed.notify_all()

    async def read(self, bytes_max):
        async with self.changed:
            await self.changed.wait_for(lambda: self.data or self.is_finished or self.is_reset)
            if self.is_reset:
                raise StreamReset("reset", 0)
            data = bytes(self.data[:bytes_max])
            del self.data[:bytes_max]
            self.changed.notify_all()
            return data

    async def write(self, data):
        view = memoryview(data)
        while view:
            async with self.changed:
                await self.changed.wait_for(lambda: len(self.data) < WINDOW_BYTES or self.is_reset)
                if self.is_reset:
                    raise StreamReset("reset", 0)
                room = WINDOW_BYTES - len(self.data)
                self.data += view[:room]
                view = view[room:]
                self.changed.notify_all()


class PairStream(ControlStream):
    def __init__(self, peer_id, remote, is_relayed, reading, writing):
        self._peer_id, self._remote, self._is_relayed = peer_id, remote, is_relayed
        self.reading, self.writing = reading, writing

    peer_id = property(lambda self: self._peer_id)
    remote = property(lambda self: self._remote)
    is_relayed = property(lambda self: self._is_relayed)

    async def read(self, bytes_max):
        return await self.reading.read(bytes_max)

    async def write(self, data):
        await self.writing.write(data)

    async def finish(self):
        await self.writing.set(is_finished=True)

    async def close(self):
        await self.finish()

    async def reset(self):
        for pipe in (self.reading, self.writing):
            await pipe.set(is_reset=True)

    @property
    def is_reset(self):
        return self.reading.is_reset


class Peer(ControlConnection):
    """A peer as the relay sees it (a ControlConnection), with the peer's own hands."""

    def __init__(self, relay, key, remote="203.0.113.7:5000", is_relayed=False):
        self.relay, self.key, self._remote, self._is_relayed = relay, key, remote, is_relayed
        self.on_stop = None
        """Handles streams that the relay opens here; None refuses them."""
        self.closed = asyncio.Event()
        self.tasks = set()

    peer_id = property(lambda self: self.key.peer_id)
    remote = property(lambda self: self._remote)
    is_relayed = property(lambda self: self._is_relayed)
    is_closed = property(lambda self: self.closed.is_set())

    def pair(self):
        """(the relay's end, this peer's end)."""
        one, other = Pipe(), Pipe()
        ours = PairStream(self.peer_id, self.remote, self.is_relayed, one, other)
        theirs = PairStream(self.relay.peer_id, "198.51.100.1:4001", self.is_relayed, other, one)
        return ours, theirs

    def ask(self, protocol):
        """Open a stream to the relay: this peer's end of it."""
        ours, theirs = self.pair()
        self.spawn(self.relay.run(protocol, ours))
        return theirs

    async def open_stream(self, protocol, *, timeout_s):
        if self.on_stop is None or self.is_closed:
            raise PeerGone("The peer does not answer.")
        ours, theirs = self.pair()
        self.spawn(self.on_stop(theirs))
        return ours

    async def wait_closed(self):
        await self.closed.wait()

    async def close(self):
        self.closed.set()
        self.relay.peers.discard(self)

    def spawn(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)


class RelayHost(ControlHost):
    """The relay's control plane; `join` makes a peer that is connected to it."""

    def __init__(self):
        self.key = KeyPair(b"r" * 32)
        self.handlers, self.peers = {}, set()

    peer_id = property(lambda self: self.key.peer_id)
    addresses = ()

    def join(self, name, **how):
        peer = Peer(self, KeyPair(name.encode().ljust(32, b".")), **how)
        self.peers.add(peer)
        return peer

    def set_handler(self, protocol, handler):
        self.handlers[protocol] = handler

    async def run(self, protocol, stream):
        """As the host does: closed when the handler returns, reset when it raises."""
        try:
            await self.handlers[protocol](stream)
        except BaseException:
            await stream.reset()
            raise
        await stream.close()

    def connections(self):
        return tuple(self.peers)

    async def connect(self, address, *, timeout_s):
        raise NotImplementedError

    async def reserve(self, relay, *, timeout_s):
        raise NotImplementedError

    async def close(self):
        tasks = [task for peer in self.peers for task in peer.tasks]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def peer_id(name):
    return PeerId(KeyPair(name.encode().ljust(32, b".")).peer_id.public_key)
