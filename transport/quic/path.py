"""Where a connection's datagrams go now, and whether the peer was proved to be there.

aioquic is shown one constant made-up address, so path validation is ours (RFC 9000 sections 8.1
and 9.3). With a path manager it is the manager's (`use`: it has had an answer from there). Without
one, a server follows its client's newest packet (`move`): a new address gets at most three times
what came from it until the peer has acknowledged a ping sent there, and without that the old
address is used again. No I/O; `now` is an argument.
"""

from typing import Final

from transport.base import PathKind
from transport.paths.path_address import PathAddress, address_kind

__all__ = ["PROOF_TIMEOUT_S", "QuicPath"]

PROOF_TIMEOUT_S: Final = 3.0
"""Several round trips of the worst home line; then the move is taken back."""

_AMPLIFICATION_MAX: Final = 3
"""RFC 9000 section 8.1: bytes sent for each byte received, to an address not proved."""


class QuicPath:
    """Owned by one connection. The first address is proved by aioquic's own handshake rules."""

    __slots__ = ("_awaited_ping", "_budget_bytes", "_deadline", "_previous", "address", "kind")

    def __init__(self, address: PathAddress) -> None:
        self.address = address
        self.kind = address_kind(address)
        """PUNCHED is known only to whoever punched."""
        self._previous: PathAddress | None = None
        self._awaited_ping = 0
        self._budget_bytes = 0
        self._deadline = 0.0

    @property
    def is_proved(self) -> bool:
        return self._previous is None

    def use(self, address: PathAddress, kind: PathKind) -> None:
        """Go to `address`, where the peer was proved to be."""
        self.address, self.kind = address, kind
        self._previous = None

    def move(self, address: PathAddress, ping: int, now: float) -> None:
        """The newest packet came from `address`; `ping` is the number of the ping sent there."""
        if self._previous is None:
            self._previous = self.address
        elif address == self._previous:
            self._previous = None
        self._go_to(address)
        self._awaited_ping, self._budget_bytes = ping, 0
        self._deadline = now + PROOF_TIMEOUT_S

    def on_received(self, size: int) -> None:
        """A datagram of `size` bytes came from the current address."""
        if self._previous is not None:
            self._budget_bytes += _AMPLIFICATION_MAX * size

    def on_ping_acknowledged(self, ping: int) -> None:
        if ping >= self._awaited_ping:
            self._previous = None

    def allow(self, datagrams: list[bytes], now: float) -> list[bytes]:
        """Those of `datagrams` that may be sent; the others are lost, as on the wire."""
        if self._previous is None:
            return datagrams
        if now >= self._deadline:
            self._go_to(self._previous)
            self._previous = None
            return datagrams
        allowed: list[bytes] = []
        for datagram in datagrams:
            if len(datagram) > self._budget_bytes:
                break
            self._budget_bytes -= len(datagram)
            allowed.append(datagram)
        return allowed

    def _go_to(self, address: PathAddress) -> None:
        self.address, self.kind = address, address_kind(address)
