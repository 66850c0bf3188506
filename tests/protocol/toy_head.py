"""A head for tests, as far as its hops go: a HeadSession that opens, repairs, pays and closes.

What it signs is compared with its own count of the rows that have arrived. What rows those are is
the matter of `toy_answer.py`.
"""

from collections.abc import Callable, Sequence

from protocol.errors import ErrorCode, RemoteProtocolError
from protocol.frame import (
    Attach,
    ErrorFrame,
    Extend,
    Extended,
    Frame,
    Meter,
    Open,
    Opened,
    ReceiptFrame,
    Result,
)  # fmt: skip
from protocol.head_session import HeadSession
from protocol.identity import PeerId
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.record import encode_canonical
from protocol.route import Hop, Route, Span
from protocol.session import SessionState
from protocol.tickets import StepTicket
from tests.protocol.toy_frames import replays
from tests.protocol.toy_funding import lease_of
from tests.protocol.toy_hop import ToyHop
from tests.protocol.toy_model import (
    DTYPE,
    HIDDEN,
    ROW_BYTES,
    Truth,
    embed,
    rows_of,
    token_bytes,
)  # fmt: skip
from tests.protocol.toy_streams import End

SESSION = b"s" * 16
EOS = (7, 13)
LIVING = (SessionState.READY, SessionState.REPAIRING)


class ToyHead:
    """`spawn` gives a hop for a place of the route, `connect` a stream to it."""

    is_listening = True

    def __init__(
        self,
        peer: PeerId,
        truth: Truth,
        spans: Sequence[Span],
        *,
        spawn: Callable[[int], ToyHop],
        connect: Callable[..., End],
        capacity: int,
        sealed: bool,
        metered: bool,
        prefix_blocks: int = 0,
        funded_rows: int | None = None,
    ) -> None:
        self.peer = peer
        self.deaf_to: ToyHop | None = None
        """A hop whose frames are long under way."""
        self.truth = truth
        self.sent: list[int] = []
        """The token of every row of the session: right ones, and drafts."""
        self.lost: set[int] = set()
        self.gone: set[int] = set()
        self.is_troubled = False
        """Whether a link has failed that may be made anew between the same hops."""
        self.repairs = 0
        self.looping_from: int | None = None
        """Where a loop began that has not ended."""
        self.paid: dict[int, dict] = {}
        """The last receipt of each hop."""
        self._arrived = [0] * len(spans)
        self._counted = 0
        """Results of this epoch, until it is closed."""
        self._spans = spans
        self._spawn, self._connect = spawn, connect
        self._capacity = capacity
        self._sealed = sealed
        self._leased_rows = funded_rows or 0
        self._forget: frozenset[int] = frozenset()
        self._prefix = tuple(bytes([n]) * 16 for n in range(prefix_blocks))
        self.standby: tuple[int, ToyHop, End] | None = None
        self.hops = [spawn(index) for index in range(len(spans))]
        self.session = HeadSession(
            SESSION, self._route(), hidden_size=HIDDEN, wire_dtype=DTYPE, metered=metered,
            prefix_blocks=prefix_blocks, funded_rows=funded_rows,
        )  # fmt: skip
        self.ends = [self._reach(hop) for hop in self.hops]
        """Streams to the hops; rows go to hop 0 on a link of its own, made anew in every epoch."""
        self._open_all(steps=0)

    @property
    def state(self) -> SessionState:
        return self.session.state

    @property
    def needs_repair(self) -> bool:
        return self.state in LIVING and (self.is_troubled or bool(self.lost))

    # --- opening and repair

    def repair(self, standby_of: int | None = None) -> None:
        """Go to the next epoch without the hops that are lost."""
        if self.state not in LIVING:
            return
        for index in self.lost:
            self.ends[index].close()
            self._arrived[index] = 0
            self.paid.pop(index, None)
            if self.standby is not None and self.standby[0] == index:
                _, self.hops[index], self.ends[index] = self.standby
                self.standby = None
            else:
                self.hops[index] = self._spawn(index)
                self.ends[index] = self._reach(self.hops[index])
        if standby_of is not None and self.standby is None:
            hop = self._spawn(standby_of)
            self.standby = (standby_of, hop, self._reach(hop))
        lost, self.lost, self.is_troubled = self.lost, set(), False
        self.repairs += 1
        self.looping_from, self._counted = None, 0
        steps = self.session.repair(self._route(), lost)
        del self.sent[self.session.resume :]
        self._open_all(steps=steps)

    def _open_all(self, *, steps: int) -> None:
        for index, end in enumerate(self.ends):
            end.send(self._open(index, steps, standby=False))
        self._forget = frozenset()
        if self.standby is not None:
            index, _, end = self.standby
            end.send(self._open(index, steps, standby=True))
        rows = self._rows = self._connect(self, self.hops[0].peer, is_link=True)
        rows.take = lambda frame: self._take_rows_answer(rows, frame)
        rows.send(Attach(SESSION, self.session.epoch, 0))
        self._has_rows_link = self._has_begun = False

    def _take_rows_answer(self, rows: End, frame: Frame | None) -> None:
        """What comes on the link to hop 0: that it stands, and that it ends."""
        if rows is not self._rows:
            return
        if frame is None:
            self.is_troubled = True
            if self.state is SessionState.OPENING:
                self.close()
            return
        self._has_rows_link = True
        self._begin_rows()

    def _open(self, index: int, steps: int, *, standby: bool) -> Open:
        peers = [hop.peer for hop in self.hops]
        last = len(peers) - 1
        loops = not self._sealed and index in (0, last) and not standby
        mirror = self.standby[1].peer if self.standby and self.standby[0] == index + 1 else None
        return Open(
            session_id=SESSION, epoch=self.session.epoch, hop_index=index, hop_count=len(peers),
            previous=peers[index - 1] if index else self.peer,
            next=peers[index + 1] if index < last else self.peer,
            next_addresses=(), manifest_hash=bytes(32), span=self._spans[index], wire_dtype=DTYPE,
            sealed=self._sealed, capacity_tokens=self._capacity, sampling=None,
            lease=lease_of(self.session.funded_rows),
            prefix=self._prefix if self.session.epoch == 0 else (), resume=self.session.resume,
            steps=steps, forget=index in self._forget, standby=standby,
            mirror=None if standby else mirror,
            loop=(peers[0] if index == last else peers[last]) if loops else None,
            eos=EOS if index == last else (),
        )  # fmt: skip

    def _begin_rows(self) -> None:
        """Once all hops are ready and the link to hop 0 stands: bring all to the same length."""
        session = self.session
        if self.state is not SessionState.READY or not self._has_rows_link or self._has_begun:
            return
        self._has_begun = True
        if session.epoch == 0:
            if (truncate := session.align()) is not None:
                self._rows.send(truncate)
            return
        start = session.opened[0].cached_tokens
        tokens = self.sent[start:]
        payload = embed(tokens) if self._sealed else token_bytes(tokens)
        rows = rows_of(payload, ROW_BYTES if self._sealed else 4)
        for frame in replays(SESSION, session.epoch, start, rows, are_tokens=not self._sealed):
            session.replayed(frame.payload_sha256)
            self._rows.send(frame)

    def _all_opened(self) -> None:
        if self.session.epoch == 0:
            self.sent = self.truth.prefix(self.session.position)
        elif self.state is SessionState.READY and (unable := self.session.unable()):
            self._forget = unable
            self.repair()
        self._begin_rows()

    def _route(self) -> Route:
        hops = [Hop(hop.peer, span) for hop, span in zip(self.hops, self._spans, strict=True)]
        return Route.of("toy", self._spans[-1].end, hops, sealed=self._sealed)

    def _reach(self, hop: ToyHop) -> End:
        end = self._connect(self, hop.peer, is_link=False)
        end.take = lambda frame: self._take(hop, end, frame)
        end.reads = lambda: hop is not self.deaf_to
        return end

    # --- what comes in

    def _take(self, hop: ToyHop, end: End, frame: Frame | None) -> None:
        if self.standby is not None and self.standby[1] is hop:
            self.standby = None if frame is None else self.standby
        if hop not in self.hops:
            return
        index = self.hops.index(hop)
        try:
            self._handle(index, frame)
        except RemoteProtocolError:
            if not end.is_tampered:
                raise
            self._lose(index)
        self._pay()

    def _handle(self, index: int, frame: Frame | None) -> None:
        match frame:
            case None:
                self._lose(index)
            case Opened():
                if self.session.accept_opened(index, frame):
                    self._all_opened()
            case Result():
                is_late = frame.epoch < self.session.epoch or self.state is not SessionState.READY
                ticket = self.session.accept_result(frame)
                if not is_late:
                    self._count(frame.count)
                if ticket is not None:
                    self.take_rows(ticket, frame)
            case Meter():
                self.session.accept_meter(index, frame)
            case Extended():
                self.session.accept_extended(index, frame)
            case ErrorFrame() if self.state in LIVING and frame.epoch == self.session.epoch:
                self.is_troubled = True
                peers = [hop.peer for hop in self.hops]
                if frame.code is ErrorCode.MALFORMED and frame.about in peers:
                    self.lost.add(peers.index(frame.about))

    def take_rows(self, ticket: StepTicket, frame: Result) -> None:
        """For who writes the answer: the result of a step that is not void."""

    def _lose(self, index: int) -> None:
        if self.state in LIVING:
            self.lost.add(index)
            return
        self.gone.add(index)
        self.ends[index].close()
        if self.state is SessionState.OPENING:
            self.close()

    # --- money, and the end

    def extend(self, rows: int) -> None:
        """Pay every hop of the route for so many rows more, as far as the session goes."""
        funded = self.session.funded_rows
        if funded is None or self.state is not SessionState.READY:
            return
        # a lease that was granted and overtaken by a repair is not taken back
        total = self._leased_rows = max(self._leased_rows, min(funded + rows, self._capacity))
        self.session.send_extend(total, [total] * len(self.hops))
        for end in self.ends:
            end.send(Extend(SESSION, lease_of(total)))

    def _count(self, count: int) -> None:
        """A result has come: its rows may be paid for at every hop, and with the first, replays."""
        session = self.session
        self._counted += 1
        for index in range(len(self.hops)):
            if self._counted == 1 and session.epoch > 0:
                self._arrived[index] += session.resume - session.opened[index].cached_tokens
            self._arrived[index] += count

    def _payable_at_most(self, index: int) -> int:
        """Rows that have arrived; before an epoch's first result also those of its replay."""
        session = self.session
        if self._counted or session.epoch == 0:
            return self._arrived[index]
        opened = {opened.hop_index: opened for opened in session.opened}
        held = opened[index].cached_tokens if index in opened else 0
        return self._arrived[index] + session.resume - held

    def _pay(self) -> None:
        is_closing = self.state is SessionState.CLOSING
        for index, meter in self.session.payable(gone=self.gone if is_closing else set()):
            arrived, most = self._arrived[index], self._payable_at_most(index)
            assert meter.tokens <= most, "signed for more than has arrived"
            if meter.final:
                assert meter.tokens >= arrived, "not all that arrived is paid"
            receipt = {"steps": meter.steps, "tokens": meter.tokens, "final": meter.final}
            self.paid[index] = receipt
            self.ends[index].send(ReceiptFrame(SESSION, encode_canonical(receipt)))
        if is_closing and self.gone == set(range(len(self.hops))):
            self.session.settled()

    def close(self) -> None:
        """End it, and keep all whole blocks that a hop may keep."""
        if self.state not in (SessionState.OPENING, *LIVING):
            return
        blocks = self.session.rows_arrived // PREFIX_BLOCK_TOKENS
        keep = tuple(bytes([n]) * 16 for n in range(blocks))
        frame = self.session.close(cancelled=True, keep=keep)
        self.gone |= self.lost
        for index, end in enumerate(self.ends):
            if index in self.gone:
                end.close()
            else:
                end.send(frame)
        if self.standby is not None:
            self.standby[2].close()
        self._pay()
