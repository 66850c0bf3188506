"""How much all connections of a control host may hold unread together."""

from typing import Protocol

from transport.control.settings import ControlSettings

__all__ = ["Holder", "ReceiveBudget"]


class Holder(Protocol):
    """A connection, as its host's budget sees it."""

    @property
    def held_bytes(self) -> int: ...


class ReceiveBudget:
    """What all connections of a host hold unread (D21); used in the muxer's thread only."""

    def __init__(self, settings: ControlSettings) -> None:
        self._settings = settings
        self._held: dict[Holder, int] = {}
        """As of each one's last frame: what was read since makes it too high, never too low."""
        self._total_bytes = 0

    def can_receive(self, holder: Holder, size: int) -> bool:
        """Whether `holder` may take `size` bytes more; if so they count from now on."""
        held_bytes = holder.held_bytes + size
        if held_bytes > self._settings.connection_receive_bytes_max:
            return False
        self._count(holder, held_bytes)
        if self._total_bytes <= self._settings.receive_bytes_max:
            return True
        for other in tuple(self._held):
            self._count(other, other.held_bytes + (size if other is holder else 0))
        return self._total_bytes <= self._settings.receive_bytes_max

    def release(self, holder: Holder) -> None:
        self._total_bytes -= self._held.pop(holder, 0)

    def _count(self, holder: Holder, held_bytes: int) -> None:
        self._total_bytes += held_bytes - self._held.get(holder, 0)
        self._held[holder] = held_bytes
