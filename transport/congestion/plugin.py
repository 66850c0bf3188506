"""Our congestion controller under a name in aioquic's registry."""

from collections.abc import Iterable
from typing import Final

from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control
from aioquic.quic.packet_builder import QuicSentPacket

from transport.congestion.controller import CongestionController

__all__ = ["CONGESTION_CONTROL", "HomeCongestionControl"]

CONGESTION_CONTROL: Final = "home"
"""Its name, for `QuicConfiguration.congestion_control_algorithm`."""


class HomeCongestionControl(CongestionController, QuicCongestionControl):
    """What aioquic looks at: the methods, `bytes_in_flight`, `congestion_window`."""

    bytes_in_flight: int

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(datagram_bytes=max_datagram_size)
        self.open_window()

    def open_window(self) -> None:
        """Let out as many whole datagrams as the window has room for: no runts at its edge.

        To be called before packets are built.
        """
        size, in_flight = self._datagram_bytes, self.bytes_in_flight
        room = max(0, int(self.window_bytes) - in_flight)
        self.congestion_window = in_flight + room // size * size

    @property
    def has_room(self) -> bool:
        """Whether another datagram would fit the window: then the sender had nothing to send."""
        return self.bytes_in_flight + self._datagram_bytes <= self.window_bytes

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        super().on_packets_lost(now=now, packets=packets)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        super().on_packets_expired(packets=packets)


register_congestion_control(CONGESTION_CONTROL, HomeCongestionControl)
