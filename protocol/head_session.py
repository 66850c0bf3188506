"""One session as its head sees it: steps on their way round, and what each hop may be paid.

The head never sees what travels between two hops, yet it signs for it. So every hop meters its own
work and the hashes of both its links; the head computes the work itself (it follows from rows and
shapes), and compares each link's hash as told by its two ends. Only what agrees, and only steps
whose result has arrived, is signed.
"""

from collections import deque
from collections.abc import Set
from dataclasses import dataclass

from protocol.errors import ErrorCode, HopFailed, LocalProtocolError, RemoteProtocolError
from protocol.frame import TOKEN_BYTES, Close, Meter, Opened, Result, StepKind, Truncate
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.money import Work
from protocol.route import Route
from protocol.session import STEPS_IN_FLIGHT_MAX, Event, SessionState, advance, step_work
from protocol.tensor import LINK_HASH_START, WireDtype, extend_link_hash

__all__ = ["HeadSession", "StepTicket"]

UNPAID_STEPS_MAX = 4096
"""Steps whose totals are kept while meters are outstanding; a window is far fewer."""


@dataclass(frozen=True, slots=True)
class StepTicket:
    """A step on its way round; its result must match."""

    position: int
    count: int
    wanted: int
    kind: StepKind


@dataclass(frozen=True, slots=True)
class _Totals:
    """What the head knows after a number of results: work per hop, hashes of its own two links."""

    tokens: int
    work: tuple[Work, ...]
    first_link_hash: bytes
    last_link_hash: bytes


class HeadSession:
    """State of one session at its head. `metered` where hops are paid.

    `prefix_blocks`: how many blocks of the prompt the OPENs offer.
    """

    def __init__(
        self,
        session_id: bytes,
        route: Route,
        *,
        hidden_size: int,
        wire_dtype: WireDtype,
        metered: bool,
        prefix_blocks: int = 0,
        epoch: int = 0,
    ) -> None:
        self.session_id = session_id
        self.route = route
        self.epoch = epoch
        self.state = SessionState.OPENING
        self.position = 0
        """Where the next step begins."""
        self.rows_arrived = 0
        """Leading rows that every hop has for certain: their results are here, or they were."""
        self.cached_tokens = 0
        """Rows that every hop had when it opened, so that nobody has run them now."""
        self.results = 0
        """Steps whose result has arrived."""
        self._hidden_size = hidden_size
        self._wire_dtype = wire_dtype
        self._metered = metered
        self._prefix_blocks = prefix_blocks
        self._opened: dict[int, Opened] = {}
        self._in_flight: deque[StepTicket] = deque()
        self._sent_hashes: deque[bytes] = deque()
        start = _Totals(0, tuple(Work() for _ in route.hops), LINK_HASH_START, LINK_HASH_START)
        self._totals: dict[int, _Totals] = {0: start}
        self._meters: dict[int, dict[int, Meter]] = {}

    @property
    def opened(self) -> tuple[Opened, ...]:
        """Every hop's answer, in the route's order; complete once READY."""
        return tuple(self._opened[index] for index in sorted(self._opened))

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def accept_opened(self, hop_index: int, frame: Opened) -> bool:
        """A hop is ready; True when all are. The first step then begins at what all have."""
        if (frame.session_id, frame.epoch) != (self.session_id, self.epoch):
            raise RemoteProtocolError("OPENED names another session or epoch.")
        if frame.hop_index != hop_index or hop_index in self._opened:
            raise RemoteProtocolError(f"OPENED came from hop {hop_index} out of turn.")
        if frame.cached_tokens > self._prefix_blocks * PREFIX_BLOCK_TOKENS:
            raise RemoteProtocolError("OPENED claims rows that were not offered.")
        self._opened[hop_index] = frame
        if len(self._opened) < len(self.route.hops):
            return False
        self.state = advance("head", self.state, Event.OPENED)
        self.cached_tokens = min(opened.cached_tokens for opened in self.opened)
        self.position = self.rows_arrived = self.cached_tokens
        return True

    def align(self) -> Truncate | None:
        """What brings every hop to the same length before the first step; None if they are."""
        if all(opened.cached_tokens == self.cached_tokens for opened in self.opened):
            return None
        return self.send_truncate(self.cached_tokens)

    def send_step(
        self, kind: StepKind, count: int, wanted: int, payload_sha256: bytes
    ) -> StepTicket:
        """Account for a step that is about to leave, and say where it stands."""
        self.state = advance("head", self.state, Event.STEP, ours=True)
        if len(self._in_flight) >= STEPS_IN_FLIGHT_MAX:
            raise LocalProtocolError("Too many steps on their way round.")
        ticket = StepTicket(self.position, count, wanted, kind)
        self._in_flight.append(ticket)
        self._sent_hashes.append(payload_sha256)
        self.position += count
        return ticket

    def accept_result(self, result: Result) -> StepTicket | None:
        """Match a result to the oldest step on its way; None if its epoch is void."""
        if result.session_id != self.session_id or result.epoch > self.epoch:
            raise RemoteProtocolError("The result belongs to another session or epoch.")
        if result.epoch < self.epoch:
            return None
        self.state = advance("head", self.state, Event.RESULT)
        if not self._in_flight:
            raise RemoteProtocolError("A result came for which there was no step.")
        ticket = self._in_flight[0]
        expected_dtype = self._wire_dtype if self.route.sealed else None
        if (result.position, result.count, result.wanted, result.kind, result.dtype) != (
            ticket.position, ticket.count, ticket.wanted, ticket.kind, expected_dtype,
        ) or (expected_dtype is not None and result.hidden_size != self._hidden_size):  # fmt: skip
            raise RemoteProtocolError("The result does not match the step that was sent.")
        self._in_flight.popleft()
        self.rows_arrived = ticket.position + ticket.count
        self._count(ticket, result)
        return ticket

    def send_truncate(self, position: int) -> Truncate:
        """Take rows back; only with nothing in flight, for late results would be ambiguous."""
        self.state = advance("head", self.state, Event.TRUNCATE, ours=True)
        if self._in_flight or not 0 <= position <= self.position:
            raise LocalProtocolError("Truncate only behind the last result.")
        self.position = position
        self.rows_arrived = min(self.rows_arrived, position)
        return Truncate(self.session_id, self.epoch, position)

    def accept_meter(self, hop_index: int, meter: Meter) -> None:
        """Keep a hop's meter until it can be compared; see `payable`."""
        if (meter.session_id, meter.epoch) != (self.session_id, self.epoch) or not self._metered:
            raise RemoteProtocolError("METER for another session or epoch, or without a lease.")
        self.state = advance("head", self.state, Event.METER)
        if self.state is SessionState.CLOSING and not meter.final:
            return  # of a window that the final meters cover
        if meter.steps > self.results + STEPS_IN_FLIGHT_MAX:
            raise RemoteProtocolError("METER for steps that were never sent.")
        self._meters.setdefault(meter.steps, {})[hop_index] = meter

    def payable(self, *, gone: Set[int] = frozenset()) -> list[tuple[int, Meter]]:
        """Meters that are complete over all hops, arrived, and agree: (hop index, meter).

        Hops in `gone` are not waited for: what the others carried is still theirs, and a link
        with one end left is taken at that end's word. Raises HopFailed when a hop claims other
        work than its steps, or when the two ends of a link tell different hashes.
        """
        due: list[tuple[int, Meter]] = []
        for steps in sorted(self._meters):
            meters = self._meters[steps]
            if steps > self.results or len(meters.keys() | gone) < len(self.route.hops):
                break
            self._compare(steps, meters)
            due.extend(sorted(meters.items()))
            del self._meters[steps]
            self._totals = {n: t for n, t in self._totals.items() if n >= steps}
        return due

    def close(self, *, cancelled: bool, keep: tuple[bytes, ...] = ()) -> Close:
        """The CLOSE for every hop; `keep` names blocks of rows that have arrived.

        Meters of windows that are not yet complete are dropped: the final ones cover them.
        """
        if len(keep) * PREFIX_BLOCK_TOKENS > self.rows_arrived:
            raise LocalProtocolError("Only rows whose results have arrived may be kept.")
        self.state = advance("head", self.state, Event.CLOSE, ours=True)
        self._meters.clear()
        return Close(self.session_id, self.epoch, self.results, cancelled, keep)

    def settled(self) -> None:
        self.state = advance("head", self.state, Event.SETTLED, ours=True)

    def fail(self) -> None:
        self.state = advance("head", self.state, Event.FAIL, ours=True)

    def _count(self, ticket: StepTicket, result: Result) -> None:
        before = self._totals[self.results]
        work = tuple(done + self._hop_work(index, ticket) for index, done in enumerate(before.work))
        self.results += 1
        self._totals[self.results] = _Totals(
            before.tokens + ticket.count,
            work,
            extend_link_hash(before.first_link_hash, self._sent_hashes.popleft()),
            extend_link_hash(before.last_link_hash, result.payload_sha256),
        )
        if not self._metered:
            del self._totals[self.results - 1]
        elif len(self._totals) > UNPAID_STEPS_MAX:
            raise LocalProtocolError("Meters are outstanding for too many steps.")

    def _hop_work(self, index: int, ticket: StepTicket) -> Work:
        row = self._wire_dtype.row_bytes(self._hidden_size)
        last = index == len(self.route.hops) - 1
        row_in = row if index > 0 or self.route.sealed else TOKEN_BYTES
        row_out = row if not last or self.route.sealed else TOKEN_BYTES
        return step_work(
            ticket.kind,
            ticket.count,
            len(self.route.hops[index].span),
            bytes_in=ticket.count * row_in,
            bytes_out=(ticket.wanted if last else ticket.count) * row_out,
        )

    def _compare(self, steps: int, meters: dict[int, Meter]) -> None:
        totals = self._totals[steps]
        incoming: bytes | None = totals.first_link_hash
        for index in range(len(self.route.hops)):
            meter = meters.get(index)
            if meter is None:
                incoming = None
                continue
            if meter.work != totals.work[index] or meter.tokens != totals.tokens:
                raise self._dishonest(index, "it metered other work than was done")
            if incoming is not None and meter.link_in_hash != incoming:
                raise self._dishonest(index, "its incoming link's hash is not the sender's")
            incoming = meter.link_out_hash
        if incoming is not None and incoming != totals.last_link_hash:
            last = len(self.route.hops) - 1
            raise self._dishonest(last, "it metered another output than arrived")

    def _dishonest(self, index: int, reason: str) -> HopFailed:
        peer = self.route.hops[index].peer_id.short
        return HopFailed(index, peer, ErrorCode.MALFORMED, reason)
