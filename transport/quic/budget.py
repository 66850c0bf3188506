"""What all connections of a host hold unread together: each has its window, the sum has a limit.

aioquic sets room aside for a gap before it is filled, so a peer pins his whole window with a few
packets; a thousand peers would pin a thousand windows.
"""

from typing import Final, Generic, TypeVar

__all__ = ["HELD_BYTES_MAX", "HeldBudget"]

C = TypeVar("C")

HELD_BYTES_MAX: Final = 512 * 1024 * 1024
"""Eight connections with full windows. Honest ones hold a frame or two for as long as it takes to
read them."""


class HeldBudget(Generic[C]):
    """Owned by one host; `C` are its connections."""

    def __init__(self, bytes_max: int = HELD_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._held: dict[C, int] = {}
        self.total_bytes = 0

    def note(self, connection: C, held_bytes: int) -> C | None:
        """`connection` holds that much now. Above the limit, the one to close: who holds most."""
        self.total_bytes += held_bytes - self._held.get(connection, 0)
        if held_bytes:
            self._held[connection] = held_bytes
        else:
            self._held.pop(connection, None)
        if self.total_bytes <= self._bytes_max:
            return None
        return max(self._held, key=lambda each: self._held[each])

    def forget(self, connection: C) -> None:
        self.total_bytes -= self._held.pop(connection, 0)
