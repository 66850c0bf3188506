"""One authenticated connection as the muxer's thread sees it, and how it comes about."""

from collections.abc import Callable
from typing import Any

import trio

from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.identity import KeyPair, PeerId
from transport.control.budget import ReceiveBudget
from transport.control.defects import BoundedYamux, reset_muxed
from transport.control.library import (
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
from transport.control.pipe import Pipe
from transport.control.proposal import ProposedConnection
from transport.control.settings import ControlSettings
from transport.errors import IdentityMismatch, TimedOut
from transport.multistream import Initiator

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
    """Makes Links of pipes: Noise, then yamux, and nothing else (D12).

    Who dials waits for one round trip, Noise's own: both protocols are proposed together with the
    first bytes that they bring. That the peer refuses the muxer shows as the end of the link.
    """

    def __init__(self, key: KeyPair, settings: ControlSettings) -> None:
        self._settings = settings
        self._budget = ReceiveBudget(settings)
        self._noise = Noise(ed25519_key_pair(key.seed), x25519_key_pair().private_key)
        self._library = TransportUpgrader(
            {NOISE_PROTOCOL: self._noise},
            {YAMUX_PROTOCOL: Yamux},
            int(settings.handshake_timeout_s),
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
        muxer = None if expected is None else Initiator(YAMUX_PROTOCOL)
        try:
            with trio.fail_after(timeout_s):
                secured, peer_id = await self._shake_hands(pipe, expected, muxer)
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await pipe.close()
            if isinstance(error, trio.TooSlowError):
                raise TimedOut(f"The handshake took more than {timeout_s:g} s.") from None
            raise
        pipe.allow_all()
        name = ID(peer_id.multihash)
        muxed = BoundedYamux(secured, name, pipe, self._settings, self._budget, proposed=muxer)
        return Link(muxed, pipe, peer_id, remote, relay)

    async def _shake_hands(
        self, pipe: Pipe, expected: PeerId | None, muxer: Initiator | None
    ) -> tuple[Any, PeerId]:
        try:
            if expected is None or muxer is None:
                secured = await self._answer(pipe)
            else:
                secured = await self._propose(pipe, expected, muxer)
        except PeerIDMismatchesPubkey as error:
            raise IdentityMismatch("The peer proves another PeerId.") from error
        except PieceworkError:
            raise
        except Exception as error:  # the library lets through whatever its codecs raise
            raise RemoteProtocolError(f"The handshake failed: {error}.") from error
        return secured, PeerId.from_multihash(secured.get_remote_peer().to_bytes())

    async def _answer(self, pipe: Pipe) -> Any:
        secured = await self._library.upgrade_security(RawConnection(pipe, initiator=False), False)
        await self._library.muxer_multistream.select_transport(secured)
        return secured

    async def _propose(self, pipe: Pipe, expected: PeerId, muxer: Initiator) -> Any:
        """Noise's second message proves the peer; its third leaves with the muxer's proposal."""
        proposed = ProposedConnection(pipe, Initiator(NOISE_PROTOCOL))
        raw = RawConnection(proposed, initiator=True)
        secured = await self._noise.secure_outbound(raw, ID(expected.multihash))
        await secured.write(muxer.opening)
        return secured
