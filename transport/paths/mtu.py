"""How much UDP payload a direct path carries: packetization-layer path MTU discovery (RFC 8899).

Padded PROBEs are sent, the largest size first, since most paths carry it; a size that three probes
could not bring across is left for the next smaller one. What was found is confirmed now and then,
and at once when the path is doubted: if small probes are answered and large ones are not, the path
has become narrower (a black hole, section 4.4) and 1200 B, which every path carries, are used until
a new search. Do not poll while the whole path is doubted: that nothing comes across then says
nothing about sizes. Sans-IO; a probe that the kernel refuses (EMSGSIZE) is lost like any other.
"""

import math
from collections.abc import Callable
from typing import Final

from transport.quic.settings import DATAGRAM_BYTES_MIN

__all__ = ["LAN_SIZES", "WAN_SIZES", "PathMTU"]

WAN_SIZES: Final = (1452, 1432, 1400, 1252)
"""1500 − 40 − 8; with PPPoE on IPv6; through most VPNs; the IPv6 minimum of 1280 + 20 − 48."""

LAN_SIZES: Final = (8900, *WAN_SIZES)
"""Jumbo frames of 9000, where every interface and switch has them on."""

PROBES_MAX: Final = 3
"""RFC 8899 section 5.1.2, MAX_PROBES."""

PROBE_TIMEOUT_MIN_S: Final = 0.25
PROBE_TIMEOUT_RTTS: Final = 3.0
"""An answer later than this counts as none; section 5.1.1 asks for more than one round trip."""

CONFIRM_S: Final = 60.0
RAISE_S: Final = 600.0
"""Section 5.1.1: PMTU_RAISE_TIMER."""


class PathMTU:
    """Of one direct path, as long as it is in use. `use_size` is called with each new size."""

    def __init__(
        self, sizes: tuple[int, ...], first: int, now: float, use_size: Callable[[int], None]
    ) -> None:
        """`first` is the size in use; sizes not above it are not searched."""
        self._sizes = sizes
        self._use_size = use_size
        self.size = first
        self._search = [size for size in sizes if size > first]
        self._probing = self._search.pop(0) if self._search else 0
        self._sent_count = 0
        self._due_at = now if self._probing else math.inf
        self._raise_at = now + RAISE_S if self._sizes else math.inf

    def poll(self, now: float, rtt_s: float) -> int | None:
        """The size of a probe to send now."""
        if now < self._due_at:
            return None
        if self._sent_count >= PROBES_MAX:
            self._give_up(now)
            if now < self._due_at:
                return None
        if not self._probing:
            self._begin(now)
            if not self._probing:
                return None
        self._sent_count += 1
        self._due_at = now + max(PROBE_TIMEOUT_MIN_S, PROBE_TIMEOUT_RTTS * rtt_s)
        return self._probing

    def next_timer(self) -> float:
        return self._due_at

    def on_answered(self, size: int, now: float) -> None:
        """A probe of `size` bytes came across."""
        if size != self._probing:
            return
        if size > self.size:
            self.size = size
            self._use_size(size)
        self._search.clear()
        self._rest(now)

    def on_doubted(self, now: float) -> None:
        """Whole flights of packets go unanswered, but the path lives: is it too narrow by now?"""
        if self.size > DATAGRAM_BYTES_MIN and not self._is_confirming:
            self._confirm(now)

    @property
    def _is_confirming(self) -> bool:
        return self._probing == self.size

    def _confirm(self, now: float) -> None:
        self._probing, self._sent_count, self._due_at = self.size, 0, now

    def _begin(self, now: float) -> None:
        """The rest is over: confirm, or look whether the path has become wider."""
        if now >= self._raise_at:
            self._raise_at = now + RAISE_S
            self._search = [size for size in self._sizes if size > self.size]
            if self._search:
                self._probing, self._sent_count = self._search.pop(0), 0
                return
        if self.size > DATAGRAM_BYTES_MIN:
            self._confirm(now)
        else:
            self._rest(now)

    def _give_up(self, now: float) -> None:
        """The size under test does not come across."""
        if self._is_confirming:
            self._search = [size for size in self._sizes if size < self.size]
            self.size = DATAGRAM_BYTES_MIN
            self._use_size(self.size)
        if self._search:
            self._probing, self._sent_count, self._due_at = self._search.pop(0), 0, now
        else:
            self._rest(now)

    def _rest(self, now: float) -> None:
        self._probing = self._sent_count = 0
        is_widest = not any(size > self.size for size in self._sizes)
        confirm_at = now + CONFIRM_S if self.size > DATAGRAM_BYTES_MIN else math.inf
        self._due_at = min(confirm_at, math.inf if is_widest else self._raise_at)
