"""Steps on their way round, the oldest first: what each result must match, and what is void."""

from collections import deque
from dataclasses import dataclass, replace

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frame import Result, StepKind
from protocol.session import STEPS_IN_FLIGHT_MAX
from protocol.tensor import WireDtype, payload_hash

__all__ = ["StepTicket", "Tickets"]


@dataclass(frozen=True, slots=True)
class StepTicket:
    """A step on its way round; its result must match. `is_void`: its rows were taken back."""

    position: int
    count: int
    wanted: int
    kind: StepKind
    payload_sha256: bytes
    loop: int = 0
    is_fed: bool = False
    """Of a loop: the last hop has sent it."""
    is_void: bool = False


class Tickets:
    """Those of one epoch. `dtype`: of the rows that results bring; None: they bring tokens."""

    def __init__(self, dtype: WireDtype | None, hidden_size: int) -> None:
        self._dtype = dtype
        self._hidden_size = hidden_size
        self._waiting: deque[StepTicket] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def steps_max(self) -> int:
        """Steps that any hop can have run of these: all, and what a loop may add."""
        return len(self._waiting) + (self._waiting[-1].loop if self._waiting else 0)

    def add(self, ticket: StepTicket) -> None:
        """Raises LocalProtocolError where too many are on their way, or a loop is."""
        if len(self._waiting) >= STEPS_IN_FLIGHT_MAX:
            raise LocalProtocolError("Too many steps on their way round.")
        self.check_no_loop()
        self._waiting.append(ticket)

    def match(self, result: Result) -> StepTicket:
        """Take the oldest, whose result this must be. Raises RemoteProtocolError."""
        if not self._waiting:
            raise RemoteProtocolError("A result came for which there was no step.")
        ticket = self._waiting[0]
        if (result.position, result.count, result.wanted, result.kind, result.dtype) != (
            ticket.position, ticket.count, ticket.wanted, ticket.kind, self._dtype,
        ) or (self._dtype is not None and result.hidden_size != self._hidden_size):  # fmt: skip
            raise RemoteProtocolError("The result does not match the step that was sent.")
        if result.loop and not ticket.loop:
            raise RemoteProtocolError("The last hop fed on a step that it was not asked to.")
        return self._waiting.popleft()

    def follow(self, ticket: StepTicket, result: Result, position: int) -> None:
        """The last hop has sent on by itself what `ticket` drew: that is on its way from now."""
        fed = payload_hash(result.payload)
        self._waiting.append(
            StepTicket(position, 1, 1, StepKind.DECODE, fed, ticket.loop - 1, is_fed=True)
        )

    def take_back(self, position: int) -> None:
        """Steps at or behind `position` are void. Raises LocalProtocolError within one."""
        self.check_no_loop()
        for ticket in self._waiting:
            if not ticket.is_void and ticket.position < position < ticket.position + ticket.count:
                raise LocalProtocolError("Truncate between steps, or behind one that is back.")
        self._waiting = deque(
            replace(ticket, is_void=True) if ticket.position >= position else ticket
            for ticket in self._waiting
        )

    def check_no_loop(self) -> None:
        """What the head sends could overtake what the last hop feeds to hop 0."""
        if self._waiting and (self._waiting[-1].loop or self._waiting[-1].is_fed):
            raise LocalProtocolError("A loop is under way: the last hop sends the next step.")

    def clear(self) -> None:
        """An epoch is over, and with it what was under way."""
        self._waiting.clear()
