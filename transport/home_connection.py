"""A connection as sessions see it: its streams go by TCP on a LAN where that is faster."""

from protocol.identity import PeerId
from transport.base import Connection, PathKind, Stream
from transport.lan.fast_lan import FastLan
from transport.quic.connection import QuicConnection

__all__ = ["HomeConnection"]


class HomeConnection(Connection):
    """A view of one QUIC connection; several views of one are equal in all they do."""

    def __init__(self, quic: QuicConnection, fast_lan: FastLan | None) -> None:
        self.quic = quic
        self._fast_lan = fast_lan

    @property
    def peer_id(self) -> PeerId:
        return self.quic.peer_id

    @property
    def path_kind(self) -> PathKind:
        return self.quic.path_kind

    @property
    def remote(self) -> str:
        return self.quic.remote

    @property
    def round_trip_s(self) -> float:
        """Smoothed; 0 before the first sample."""
        return self.quic.round_trip_s

    async def open_stream(self, protocol: str) -> Stream:
        if self._fast_lan is not None and self.path_kind is PathKind.LAN:
            stream = await self._fast_lan.open(self.quic, protocol)
            if stream is not None:
                return stream
        return await self.quic.open_stream(protocol)

    async def close(self) -> None:
        await self.quic.close()
