"""A bare aioquic client on a socket of its own: free to misbehave."""

import asyncio
import socket
import ssl
from time import monotonic

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent

from transport.quic.certificate import TlsIdentity


class RawPeer:
    def __init__(
        self, port: int, identity: TlsIdentity | None, alpn: list[str] | None = None
    ) -> None:
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=alpn or ["libp2p"], verify_mode=ssl.CERT_NONE
        )
        if identity is not None:
            configuration.certificate = identity.certificate
            configuration.private_key = identity.private_key
        self.quic = QuicConnection(configuration=configuration)
        self.events: list[QuicEvent] = []
        self.address = ("127.0.0.1", port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.1", 0))

    def __enter__(self) -> "RawPeer":
        self.quic.connect(self.address, monotonic())
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self) -> None:
        for data, _ in self.quic.datagrams_to_send(monotonic()):
            self.socket.sendto(data, self.address)

    async def pump(self, seconds: float = 0.3, *, until: type[QuicEvent] | None = None) -> None:
        """Drive the connection for that long, or until such an event came."""
        end = monotonic() + seconds
        while monotonic() < end:
            self.send()
            try:
                self.quic.receive_datagram(self.socket.recv(65536), self.address, monotonic())
            except BlockingIOError:
                await asyncio.sleep(0.002)
                timer = self.quic.get_timer()
                if timer is not None and monotonic() >= timer:
                    self.quic.handle_timer(monotonic())
            while (event := self.quic.next_event()) is not None:
                self.events.append(event)
            if until is not None and self.has(until):
                self.send()
                return

    async def shake_hands(self) -> None:
        await self.pump(3, until=HandshakeCompleted)
        assert self.has(HandshakeCompleted)

    def has(self, kind: type[QuicEvent]) -> bool:
        return any(isinstance(event, kind) for event in self.events)

    @property
    def close_reason(self) -> str:
        """Why the other side closed; pump first."""
        ends = [event for event in self.events if isinstance(event, ConnectionTerminated)]
        return ends[0].reason_phrase if ends else ""
