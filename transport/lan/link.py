"""The dialling side: one connection's control stream, its tickets, and the streams opened so."""

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Sequence
from time import monotonic
from typing import TypeVar

from protocol.errors import RemoteProtocolError
from transport.base import Connection, Stream
from transport.errors import (
    PeerGone,
    ProtocolNotSupported,
    StreamReset,
    TimedOut,
    TransportError,
)
from transport.interfaces import is_loopback, local_addresses, path_kind_of, rank_lan_hosts
from transport.lan.carrier import LanCarrier
from transport.lan.session import LanSession
from transport.lan.settings import LanSettings, prepare_socket
from transport.lan.stream import LanStream
from transport.lan.tickets import TicketPurse
from transport.lan.tls import has_certificate
from transport.lan.wire import (
    ACCEPTED_BYTES,
    LAN_PROTOCOL,
    Offer,
    Want,
    decode_accepted,
    opening,
)

__all__ = ["LanBlocked", "LanLink", "hosts_to_try"]

T = TypeVar("T")

_HOSTS_TRIED_MAX = 3
"""Addresses of one listener; each that does not answer costs `connect_timeout_s`."""


class LanBlocked(TransportError):
    """This peer has no fast path for us; the message says why."""


class LanLink:
    """Made by FastLan for one connection; `start` asks for the first tickets."""

    def __init__(
        self,
        connection: Connection,
        context: ssl.SSLContext,
        settings: LanSettings,
        scratch: memoryview,
    ) -> None:
        self.session = LanSession(connection.peer_id)
        self._connection = connection
        self._context = context
        self._settings = settings
        self._scratch = scratch
        self._purse = TicketPurse()
        self._waiting: deque[asyncio.Future[Offer]] = deque()
        self._opens = asyncio.Semaphore(settings.opens_max)
        self._offer: Offer | None = None
        self._control: Stream | None = None
        self._host: str | None = None
        """Where TCP answered last."""

    async def start(self) -> None:
        """Raises LanBlocked where the peer offers nothing, PeerGone when the connection ends."""
        control = self._control = await self._connection.open_stream(LAN_PROTOCOL)
        await control.send(Want(1).encode())
        try:
            offer = await _within(self._settings.opening_timeout_s, control.receive(), "an offer")
            if offer is None:
                raise LanBlocked("The peer offers no fast path on this network.")
            self._take(Offer.decode(offer, hosts_max=self._settings.hosts_max))
        except (ProtocolNotSupported, StreamReset, RemoteProtocolError) as error:
            control.reset(0)
            raise LanBlocked(f"The peer has no fast path: {error}") from None
        except BaseException:
            control.reset(0)
            raise

    async def watch(self) -> None:
        """Takes the peer's offers until the control stream ends; then all streams end."""
        assert self._control is not None, "started before it is watched"
        try:
            while (frame := await self._control.receive()) is not None:
                offer = Offer.decode(frame, hosts_max=self._settings.hosts_max)
                if not self._waiting:
                    break  # nobody asked: this is not the protocol
                self._take(offer)
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_result(offer)
        except (TransportError, RemoteProtocolError):
            pass  # the peer or its connection is gone, or speaks nonsense: either way this ends
        finally:
            self.session.end()
            self._control.reset(0)
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_exception(PeerGone("The fast path to the peer is over."))
                    waiter.exception()

    def moved(self) -> None:
        """The connection has another path: TCP may have one too."""
        self._host = None

    async def open(self, protocol: str) -> LanStream | None:
        """A new stream; None at the limit of streams. Raises LanBlocked or PeerGone."""
        async with self._opens:
            if self.session.stream_count >= self._settings.streams_max:
                return None
            if (spare := self._purse.take(monotonic())) is not None:
                # Hung up on: a listener that is short of room may have made the ticket void.
                with contextlib.suppress(PeerGone):
                    return await self._open(spare, protocol)
            return await self._open(await self._ask(), protocol)

    async def _ask(self) -> bytes:
        """A ticket over QUIC: one round trip."""
        ticket = self._purse.take(monotonic())
        if ticket is None:
            if self.session.is_over or self._control is None:
                raise PeerGone("The fast path to the peer is over.")
            waiter: asyncio.Future[Offer] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await self._control.send(Want(1).encode())
            await _within(self._settings.opening_timeout_s, waiter, "a ticket")
            ticket = self._purse.take(monotonic())
        if ticket is None:
            raise LanBlocked("The peer gave no ticket that could be used.")
        return ticket

    async def _open(self, ticket: bytes, protocol: str) -> LanStream:
        settings = self._settings
        carrier = await self._connect()
        try:
            carrier.write_raw(opening(ticket, protocol))
            answer = await _within(
                settings.opening_timeout_s, carrier.read_exactly(ACCEPTED_BYTES), "the ticket"
            )
            next_ticket = decode_accepted(answer)
        except RemoteProtocolError as error:
            carrier.abort()
            raise LanBlocked(str(error)) from None
        except BaseException:
            carrier.abort()
            raise
        assert self._offer is not None
        self._purse.put(next_ticket, self._offer.lifetime_ms / 1000, monotonic())
        stream = LanStream(
            carrier,
            self._connection.peer_id,
            is_ours=True,
            linger_s=settings.linger_s,
            on_closed=self.session.discard,
        )
        self.session.add(stream)
        carrier.begin(stream)
        return stream

    async def _connect(self) -> LanCarrier:
        """TCP and TLS to the first of the peer's addresses that answers; its hash is checked."""
        assert self._offer is not None
        reasons: list[str] = []
        for host in [self._host] if self._host else self._hosts():
            try:
                carrier = await self._shake_hands(host, self._offer)
            except (OSError, TimeoutError) as error:
                reasons.append(f"{host}: {error or 'no answer'}")
            else:
                self._host = host
                return carrier
        self._host = None
        raise LanBlocked(f"TCP to the peer is blocked ({'; '.join(reasons) or 'no address'}).")

    def _hosts(self) -> Sequence[str]:
        assert self._offer is not None
        path_host = host_of(self._connection.remote)
        return hosts_to_try(path_host, self._offer)[:_HOSTS_TRIED_MAX]

    async def _shake_hands(self, host: str, offer: Offer) -> LanCarrier:
        settings, loop = self._settings, asyncio.get_running_loop()
        carrier = LanCarrier(settings.stream, self._scratch)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            prepare_socket(opened)
            async with asyncio.timeout(settings.connect_timeout_s):
                await loop.sock_connect(opened, (host, offer.port))
            async with asyncio.timeout(settings.handshake_timeout_s):
                transport, _ = await loop.create_connection(
                    lambda: carrier,
                    sock=opened,
                    ssl=self._context,
                    server_hostname="",
                    ssl_handshake_timeout=settings.handshake_timeout_s,
                    ssl_shutdown_timeout=settings.shutdown_timeout_s,
                )
        except ConnectionResetError:
            opened.close()
            raise PeerGone("The peer hung up before the handshake: it is short of room.") from None
        except BaseException:
            opened.close()
            raise
        if not has_certificate(transport, offer.certificate_hash):
            transport.abort()
            raise LanBlocked(
                f"Another program than the peer answers at its TCP address ({host}): "
                "the certificate is not the one it named."
            )
        return carrier

    def _take(self, offer: Offer) -> None:
        self._offer = offer
        for ticket in offer.tickets:
            self._purse.put(ticket, offer.lifetime_ms / 1000, monotonic())


def hosts_to_try(path_host: str, offer: Offer) -> tuple[str, ...]:
    """The peer's TCP addresses, fastest network first; `path_host` is where QUIC reaches it.

    A peer cannot point us at what is not its own: only networks of ours count, no loopback.
    """
    if is_loopback(path_host):
        return (path_host,)
    locals_ = local_addresses()
    on_link = [
        entry.host
        for entry in offer.hosts
        if not is_loopback(entry.host)
        and path_kind_of(entry.host) == path_kind_of(path_host)
        and any(local.leads_to(entry.host) and local.host != entry.host for local in locals_)
    ]
    speeds = {entry.host: entry.speed_mbits for entry in offer.hosts}
    # Where two networks are equally fast, the one that QUIC has proved comes first.
    return rank_lan_hosts([path_host, *on_link], locals_, speeds)


def host_of(remote: str) -> str:
    """The address in a connection's `remote`: `192.0.2.1:4001` or `[fe80::1%eth0]:4001`."""
    return remote.rpartition(":")[0].strip("[]")


async def _within(timeout_s: float, awaitable: Awaitable[T], what: str) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await awaitable
    except TimeoutError:
        raise TimedOut(f"The peer did not answer {what} within {timeout_s:g} s.") from None
