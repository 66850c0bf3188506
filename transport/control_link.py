"""One authenticated connection as the muxer's thread sees it, and how it comes about."""

from collections.abc import Callable
from typing import Any

import trio

from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair, PeerId
from transport.control_budget import ReceiveBudget
from transport.control_defects import BoundedYamux, reset_muxed
from transport.control_library import (
    ID,
    NOISE_PROTOCOL,
    YAMUX_PROTOCOL,
    MuxedConnUnavailable,
    Noise,
    PeerIDMismatchesPubkey,
    RawConnection,
    TransportUpgrader,
    Yamux,
    YamuxStream,
    ed25519_key_pair,
    x25519_key_pair,
)
from transport.control_pipe import Pipe
from transport.control_settings import ControlSettings
from transport.errors import IdentityMismatch, TimedOut

__all__ = ["Link", "Upgrader"]


class Link:
    """A muxed connection to `peer_id`; `relay` is who stands between, if anyone."""

    def __init__(
        self,
        muxed: BoundedYamux,
        pipe: Pipe,
        peer_id: PeerId,
        remote: str,
        relay: PeerId | None,
    ) -> None:
        self.muxed = muxed
        self.peer_id = peer_id
        self.remote = remote
        self.relay = relay
        self._pipe = pipe

    @property
    def end_reason(self) -> str:
        return str(self.muxed.end_reason)

    async def run(self, on_stream: Callable[[YamuxStream], None]) -> None:
        """Until the connection ends. `on_stream` gets each stream that the peer opens."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._abort_when_cancelled)
                nursery.start_soon(self.muxed.start)
                await self._accept(on_stream)
                nursery.cancel_scope.cancel()
        finally:
            self._pipe.abort()

    async def close(self) -> None:
        """Say goodbye; `run` then ends."""
        with trio.move_on_after(self.muxed.settings.close_timeout_s):
            await self.muxed.close()
        self._pipe.abort()

    async def _accept(self, on_stream: Callable[[YamuxStream], None]) -> None:
        while True:
            try:
                stream = await self.muxed.accept_stream()
            except MuxedConnUnavailable:
                return
            if len(self.muxed.streams) > self.muxed.settings.streams_max:
                await reset_muxed(stream)
            else:
                on_stream(stream)

    async def _abort_when_cancelled(self) -> None:
        """A frame being written cannot be cancelled (D23); without its socket it ends."""
        try:
            await trio.sleep_forever()
        finally:
            self._pipe.abort()


class Upgrader:
    """Makes Links of pipes: Noise, then yamux, and nothing else (D12)."""

    def __init__(self, key: KeyPair, settings: ControlSettings) -> None:
        self._settings = settings
        self._budget = ReceiveBudget(settings)
        noise = Noise(ed25519_key_pair(key.seed), x25519_key_pair().private_key)
        self._library = TransportUpgrader(
            {NOISE_PROTOCOL: noise}, {YAMUX_PROTOCOL: Yamux}, int(settings.handshake_timeout_s)
        )

    async def upgrade(
        self,
        pipe: Pipe,
        *,
        expected: PeerId | None,
        remote: str,
        relay: PeerId | None = None,
    ) -> Link:
        """Dial if somebody is `expected`, else answer.

        Raises IdentityMismatch, RemoteProtocolError or TimedOut; the pipe is then closed.
        """
        timeout_s = self._settings.handshake_timeout_s
        try:
            with trio.fail_after(timeout_s):
                secured, peer_id = await self._shake_hands(pipe, expected)
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await pipe.close()
            if isinstance(error, trio.TooSlowError):
                raise TimedOut(f"The handshake took more than {timeout_s:g} s.") from None
            raise
        pipe.allow_all()
        name = ID(peer_id.multihash)
        muxed = BoundedYamux(secured, name, pipe, self._settings, self._budget)
        return Link(muxed, pipe, peer_id, remote, relay)

    async def _shake_hands(self, pipe: Pipe, expected: PeerId | None) -> tuple[Any, PeerId]:
        is_initiator = expected is not None
        name = ID(expected.multihash) if expected is not None else None
        raw = RawConnection(pipe, initiator=is_initiator)
        try:
            secured = await self._library.upgrade_security(raw, is_initiator, name)
            await self._library.muxer_multistream.select_transport(secured)
        except Exception as error:  # the library lets through whatever its codecs raise
            if isinstance(error.__cause__, PeerIDMismatchesPubkey):
                raise IdentityMismatch("The peer proves another PeerId.") from error
            raise RemoteProtocolError(f"The handshake failed: {error}.") from error
        return secured, PeerId.from_multihash(secured.get_remote_peer().to_bytes())
