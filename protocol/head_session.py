"""One session as its head sees it: steps on their way round, through one epoch after another.

The steps under way are kept in `tickets.py`, what hops may be paid for them in `head_account.py`,
and what may be sent at all in `head_funding.py`. Sans-IO; `node/head/session.py` drives it.
"""

from collections.abc import Sequence, Set

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frame import Close, Extended, Meter, Opened, Result, StepKind, Truncate
from protocol.head_account import HeadAccount
from protocol.head_funding import HeadFunding
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.money import Nanos
from protocol.route import Route
from protocol.session import Event, SessionState, advance
from protocol.tensor import WireDtype
from protocol.tickets import StepTicket, Tickets

__all__ = ["HeadSession"]


class HeadSession:
    """State of one session at its head. `metered` where hops are paid.

    `prefix_blocks`: how many blocks of the prompt the OPENs offer. `resume`: rows that the session
    has from an earlier route, which its hops will be sent before the first step. `funded_rows`: how
    many rows the leases of its hops pay for; None: as many as fit.
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
        resume: int = 0,
        funded_rows: int | None = None,
    ) -> None:
        self.session_id = session_id
        self.route = route
        self.epoch = epoch
        self.state = SessionState.OPENING
        self.position = 0
        """Where the next step begins."""
        self.rows_arrived = resume
        """Leading rows that every hop has for certain: their results are here, or they were."""
        self.cached_tokens = 0
        """Rows that every hop had when it opened, so that nobody has run them now."""
        self.resume = resume
        """Rows that this epoch begins with."""
        self._funding = HeadFunding(funded_rows)
        self._metered = metered
        self._prefix_blocks = prefix_blocks
        self._opened: dict[int, Opened] = {}
        self._tickets = Tickets(wire_dtype if route.sealed else None, hidden_size)
        self._account = HeadAccount(route, hidden_size, wire_dtype, keeps=metered)

    @property
    def opened(self) -> tuple[Opened, ...]:
        """Every hop's answer of this epoch, in the route's order; complete once READY."""
        return tuple(self._opened[index] for index in sorted(self._opened))

    @property
    def in_flight(self) -> int:
        """Steps whose result is not back, void ones too."""
        return len(self._tickets)

    @property
    def funded_rows(self) -> int | None:
        """Every hop has confirmed that it is paid for so many rows: none is sent beyond."""
        return self._funding.rows

    @property
    def results(self) -> int:
        """Steps of this epoch whose result has arrived."""
        return self._account.steps

    def has_opened(self, hop_index: int) -> bool:
        return hop_index in self._opened

    def accept_opened(self, hop_index: int, frame: Opened) -> bool:
        """A hop is ready; True when all are. The first step then begins at what all have.

        After a repair it begins behind `resume`: who has fewer rows is sent the rest.
        """
        if frame.session_id != self.session_id or frame.epoch > self.epoch:
            raise RemoteProtocolError("OPENED names another session or epoch.")
        if frame.epoch < self.epoch:
            return False
        if frame.hop_index != hop_index or hop_index in self._opened:
            raise RemoteProtocolError(f"OPENED came from hop {hop_index} out of turn.")
        offered = self._prefix_blocks * PREFIX_BLOCK_TOKENS if self.epoch == 0 else self.resume
        if frame.cached_tokens > offered:
            raise RemoteProtocolError("OPENED claims rows that were not offered.")
        if self.epoch == 0 and frame.cached_tokens % PREFIX_BLOCK_TOKENS:
            raise RemoteProtocolError("OPENED claims rows that are not whole blocks of a prefix.")
        self._opened[hop_index] = frame
        if len(self._opened) < len(self.route.hops):
            return False
        self.state = advance("head", self.state, Event.OPENED)
        self._begin_epoch()
        return True

    def align(self) -> Truncate | None:
        """What brings every hop to the same length before the first step; None if they are."""
        if self.epoch > 0 or all(o.cached_tokens == self.cached_tokens for o in self.opened):
            return None
        return self.send_truncate(self.cached_tokens)

    def unable(self) -> frozenset[int]:
        """Hops that cannot replay what the hop behind them lacks: they must begin from nothing.

        Walks from the last hop back, so that what such a hop will lack counts for the one before.
        """
        unable: set[int] = set()
        lacking_from = self.resume
        for index in reversed(range(len(self.route.hops))):
            mine = self._opened[index]
            rows = mine.cached_tokens
            if mine.replay_from > lacking_from and rows > lacking_from:
                unable.add(index)
                rows = 0
            lacking_from = rows
        return frozenset(unable)

    def send_step(
        self, kind: StepKind, count: int, wanted: int, payload_sha256: bytes, *, loop: int = 0
    ) -> StepTicket:
        """Account for a step that is about to leave, and say where it stands."""
        self.state = advance("head", self.state, Event.STEP, ours=True)
        self._funding.check(self.position + count + loop)
        ticket = StepTicket(self.position, count, wanted, kind, payload_sha256, loop)
        self._tickets.add(ticket)
        self.position += count
        return ticket

    def accept_result(self, result: Result) -> StepTicket | None:
        """Match a result to the oldest step on its way; None if it is void.

        Of a loop, the step that the last hop has sent on by itself is on its way from now.
        """
        if result.session_id != self.session_id or result.epoch > self.epoch:
            raise RemoteProtocolError("The result belongs to another session or epoch.")
        if result.epoch < self.epoch:
            return None
        self.state = advance("head", self.state, Event.RESULT)
        ticket = self._tickets.match(result)
        self._account.count(
            ticket.kind, ticket.count, ticket.wanted, ticket.payload_sha256, result.payload_sha256
        )
        if ticket.is_void:
            return None
        self.rows_arrived = ticket.position + ticket.count
        if result.loop:
            self._tickets.follow(ticket, result, self.position)
            self.position += 1
        return ticket

    def send_truncate(self, position: int) -> Truncate:
        """Take rows back: steps at or behind `position` are void, and so will their results be."""
        self.state = advance("head", self.state, Event.TRUNCATE, ours=True)
        if not 0 <= position <= self.position:
            raise LocalProtocolError("Truncate only behind the last step.")
        self._tickets.take_back(position)
        self.position = position
        self.rows_arrived = min(self.rows_arrived, position)
        return Truncate(self.session_id, self.epoch, position)

    def send_extend(self, rows: int, amounts: Sequence[Nanos]) -> None:
        """Higher limits leave for every hop, up to `rows`; `amounts` are those of the new leases.

        What was under way before is void: the caller waits for these.
        """
        self.state = advance("head", self.state, Event.EXTEND, ours=True)
        self._funding.ask(rows, amounts)

    def accept_extended(self, hop_index: int, frame: Extended) -> bool:
        """A hop works up to higher limits; True when all do, and rows up to there may be sent.

        Of an extension that a repair has overtaken nothing is taken.
        """
        if frame.session_id != self.session_id:
            raise RemoteProtocolError("EXTENDED names another session.")
        self.state = advance("head", self.state, Event.EXTENDED)
        if self.state is not SessionState.READY:
            return False
        return self._funding.confirm(hop_index, frame.amount_nanos_max)

    def repair(self, route: Route, lost: Set[int]) -> int:
        """Go to the next epoch, other hops in the places of `lost`. Gives what OPEN's `steps` says.

        The steps whose results are missing are forgotten here: the caller sends those that are
        not void again, once READY, beginning at `rows_arrived`.
        """
        self.state = advance("head", self.state, Event.REOPEN, ours=True)
        if len(route.hops) != len(self.route.hops):
            raise LocalProtocolError("A repair keeps the number of hops.")
        arrived = self.results
        self.route = route
        self.epoch += 1
        self.resume = self.rows_arrived
        self._opened.clear()
        self._tickets.clear()
        self._funding.drop()
        self._account.begin_epoch(route, lost)
        # what a hop lacks it will say; a CLOSE may come before that, and find it at its replay
        self._account.expect_replays([self.resume] * len(route.hops))
        return arrived

    def replayed(self, payload_sha256: bytes) -> None:
        """A REPLAY has left for hop 0."""
        self._account.sent_replay(payload_sha256)

    def accept_meter(self, hop_index: int, meter: Meter) -> None:
        """Keep a hop's meter until it can be compared; see `payable`."""
        if meter.session_id != self.session_id or meter.epoch > self.epoch or not self._metered:
            raise RemoteProtocolError("METER for another session or epoch, or without a lease.")
        self.state = advance("head", self.state, Event.METER)
        if meter.epoch < self.epoch:
            return  # the meters of this epoch will cover it
        if self.state is SessionState.CLOSING and not meter.final:
            return  # of a window that the final meters cover
        if meter.steps > self.results + self._tickets.steps_max:
            raise RemoteProtocolError("METER for steps that were never sent.")
        self._account.keep(hop_index, meter)

    def payable(self, *, gone: Set[int] = frozenset()) -> list[tuple[int, Meter]]:
        """Meters that are complete over all hops, arrived, and agree: (hop index, meter).

        Hops in `gone` are not waited for: what the others carried is still theirs, and a link
        with one end left is taken at that end's word. Raises HopFailed when a hop claims other
        work than its steps, or when the two ends of a link tell different hashes.
        """
        return self._account.payable(gone)

    def close(self, *, cancelled: bool, keep: tuple[bytes, ...] = ()) -> Close:
        """The CLOSE for every hop; `keep` names blocks of rows that have arrived.

        Meters of windows that are not yet complete are dropped: the final ones cover them.
        """
        if len(keep) * PREFIX_BLOCK_TOKENS > self.rows_arrived:
            raise LocalProtocolError("Only rows whose results have arrived may be kept.")
        self.state = advance("head", self.state, Event.CLOSE, ours=True)
        self._account.drop_meters()
        keep = keep[: self._rows_everywhere // PREFIX_BLOCK_TOKENS]
        return Close(self.session_id, self.epoch, self.results, cancelled, keep)

    def settled(self) -> None:
        self.state = advance("head", self.state, Event.SETTLED, ours=True)

    def fail(self) -> None:
        self.state = advance("head", self.state, Event.FAIL, ours=True)

    def _begin_epoch(self) -> None:
        if self.epoch == 0:
            self.cached_tokens = min(opened.cached_tokens for opened in self.opened)
            self.position = self.rows_arrived = self.cached_tokens
            return
        self.position = self.resume
        self._account.expect_replays([self.resume - opened.cached_tokens for opened in self.opened])

    @property
    def _rows_everywhere(self) -> int:
        """Leading rows that are at every hop now: a repair's replays may be under way."""
        if self.epoch == 0 or self.results:
            return self.rows_arrived
        if len(self._opened) < len(self.route.hops):
            return 0
        return min(self.rows_arrived, *(opened.cached_tokens for opened in self.opened))
