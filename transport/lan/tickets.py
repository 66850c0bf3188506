"""Tickets: who shows one speaks for the peer to whom it was given, once, and soon.

No I/O; `now` is in monotonic seconds.
"""

import secrets
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from transport.lan.wire import TICKET_BYTES

__all__ = ["TicketBook", "TicketPurse"]

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True)
class _Issued(Generic[Owner]):
    owner: Owner
    expires_at: float


class TicketBook(Generic[Owner]):
    """The listener's side. `Owner` stands for one verified connection; it is hashable."""

    def __init__(self, per_owner_max: int, lifetime_s: float) -> None:
        self._per_owner_max = per_owner_max
        self._lifetime_s = lifetime_s
        self._issued: dict[bytes, _Issued[Owner]] = {}
        self._by_owner: dict[Owner, deque[bytes]] = {}

    @property
    def outstanding_count(self) -> int:
        return len(self._issued)

    def issue(self, owner: Owner, now: float) -> bytes:
        """A new ticket; the owner's oldest becomes void when there would be too many."""
        tickets = self._by_owner.setdefault(owner, deque())
        if len(tickets) >= self._per_owner_max:
            del self._issued[tickets.popleft()]
        ticket = secrets.token_bytes(TICKET_BYTES)
        self._issued[ticket] = _Issued(owner, now + self._lifetime_s)
        tickets.append(ticket)
        return ticket

    def redeem(self, ticket: bytes, now: float) -> Owner | None:
        """Whose it is, or None: never issued, used before, or too old."""
        issued = self._issued.pop(ticket, None)
        if issued is None:
            return None
        self._by_owner[issued.owner].remove(ticket)
        return issued.owner if now < issued.expires_at else None

    def revoke(self, owner: Owner) -> None:
        """Void all tickets of that connection."""
        for ticket in self._by_owner.pop(owner, ()):
            del self._issued[ticket]


class TicketPurse:
    """The dialler's side: what it may still use. A ticket near its end is thrown away."""

    MARGIN_S = 2.0
    """Connecting and the handshake take up to this much of a ticket's life."""

    def __init__(self) -> None:
        self._tickets: deque[tuple[bytes, float]] = deque()

    def put(self, ticket: bytes, lifetime_s: float, now: float) -> None:
        self._tickets.append((ticket, now + lifetime_s - self.MARGIN_S))

    def take(self, now: float) -> bytes | None:
        """The oldest that is still good."""
        while self._tickets:
            ticket, good_until = self._tickets.popleft()
            if now < good_until:
                return ticket
        return None
