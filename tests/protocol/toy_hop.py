"""A hop for tests: a HopSession with a toy engine, a log, links, and nothing that waits.

It does what `node/serve` does with the same session: opens links anew in every epoch, replays from
its log what the next hop lacks, and holds a step back until it is paid.
"""

from collections import deque
from collections.abc import Callable, Sequence

from protocol.errors import ErrorCode, RemoteProtocolError
from protocol.frame import (
    Attach,
    Close,
    ErrorFrame,
    Extend,
    Extended,
    Frame,
    LinkRole,
    Meter,
    Open,
    Opened,
    ReceiptFrame,
    Replay,
    Step,
    Truncate,
)  # fmt: skip
from protocol.hop_session import HopSession
from protocol.identity import PeerId
from protocol.record import decode_canonical
from protocol.session import SessionState
from protocol.tensor import payload_hash
from tests.protocol.toy_frames import fed_on, passed_on, replays
from tests.protocol.toy_funding import funded_by, work_of
from tests.protocol.toy_links import ToyLinks
from tests.protocol.toy_model import (
    HIDDEN,
    ROW_BYTES,
    ToyEngine,
    ToyLog,
    draw,
    rows_of,
    token_bytes,
)  # fmt: skip
from tests.protocol.toy_streams import End

GETTING_READY = (SessionState.OPENING, SessionState.REOPENING)


class ToyHop:
    """One session at one peer. `earlier`: inputs of rows that it has from an earlier session."""

    def __init__(
        self,
        peer: PeerId,
        connect: Callable[..., End],
        *,
        log_rows: int = 10_000,
        earlier: Sequence[bytes] = (),
        window: int | None = None,
        credit: int | None = None,
    ) -> None:
        self.peer = peer
        self.is_alive = True
        self.is_stalled = False
        self.session: HopSession | None = None
        self.queue: deque[Step | Replay | Truncate] = deque()
        """Accepted and not yet run."""
        self.ends: list[End] = []
        self.funded_rows: int | None = None
        """What its lease pays for; None: all."""
        self._connect = connect
        self._log = ToyLog(log_rows)
        self._earlier = earlier
        self._money = {"window_tokens": window, "credit_tokens": credit}
        self._waiting: list[tuple[Attach, End]] = []
        self._final: Meter | None = None

    @property
    def is_listening(self) -> bool:
        return self.is_alive and not self.is_stalled

    @property
    def can_work(self) -> bool:
        if not self.is_listening or not self.queue:
            return False
        return not isinstance(self.queue[0], Step) or self.session.may_work()

    @property
    def state(self) -> SessionState:
        return self.session.state if self.session else SessionState.OPENING

    @property
    def is_over(self) -> bool:
        return not self.is_alive or self.state in (SessionState.CLOSED, SessionState.FAILED)

    def accept_stream(self, end: End) -> None:
        """Somebody has opened a stream to this hop."""
        self.ends.append(end)
        end.take = lambda frame: self._take_first(end, frame)

    def die(self, kept: Callable[[int], int]) -> None:
        """Be gone; of so many frames that are under way from here, `kept` still arrive."""
        self.is_alive = False
        for end in self.ends:
            end.other.lose(kept(len(end.other.inbox)))

    # --- what the links ask for

    def dial(self, peer: PeerId) -> End:
        end = self._connect(self, peer, is_link=True)
        self.ends.append(end)
        return end

    def reads_links(self, links: ToyLinks) -> bool:
        return links is not self._links or self.state not in GETTING_READY

    def link_stands(self, role: LinkRole) -> None:
        if self.state in GETTING_READY:
            self._get_ready()
        elif role is LinkRole.MIRROR and self.state is SessionState.READY:
            self._links.mirror_log(self._log)

    def take_link(self, links: ToyLinks, end: End, frame: Frame) -> None:
        try:
            self._enqueue(frame)
        except RemoteProtocolError:
            if not end.is_tampered:
                raise
            end.close()
            self._lose(links, end, ErrorCode.MALFORMED)

    def link_lost(self, links: ToyLinks, end: End) -> None:
        self._lose(links, end, ErrorCode.PEER_GONE)

    # --- opening

    def _take_first(self, end: End, frame: Frame | None) -> None:
        match frame:
            case Open():
                self._head = end
                end.take = self._take_head
                self._take_open(frame)
            case Attach() if self.session and frame.epoch <= self.session.open.epoch:
                self._links.attach(frame, end)
            case Attach():
                self._waiting.append((frame, end))
                end.take = lambda _: None

    def _take_open(self, request: Open) -> None:
        self.queue.clear()
        if self.session is None:
            self.funded_rows = funded_by(request.lease)
            self.session = HopSession(
                request, hidden_size=HIDDEN, work_max=work_of(self.funded_rows), **self._money
            )
            self._engine = ToyEngine(request.span)
            self._engine.run(0, self._earlier)
            self._rows = self._engine.rows
            self._log.begin(self._rows)
        else:
            self._rows = self.session.reopen(request)
            self._engine.truncate(self._rows)
            self._log.truncate(self._rows)
        self._links = ToyLinks(self, request, self._rows)
        self._links.dial()
        waiting, self._waiting = self._waiting, []
        for attach, end in waiting:
            self._take_first(end, attach)
        self._get_ready()

    def _get_ready(self) -> None:
        """Be ready, and tell the head, once all links onward stand."""
        request = self.session.open
        if self.state not in GETTING_READY or not self._links.stand_onward:
            return
        self.session.ready(cached_tokens=self._rows)
        self._head.send(
            Opened(
                request.session_id, request.epoch, request.hop_index, "toy", "lan", self._rows,
                self._log.start,
            )
        )  # fmt: skip
        start = self._links.rows_there.get(LinkRole.STEPS, self._rows)
        # sends nothing on where its log begins too late: the head sees it and begins another epoch
        self._can_replay = start >= self._rows or self._log.start <= start
        if self._can_replay and start < self._rows:
            self._replay(start, self._log.rows(start, self._rows))
        self._links.mirror_log(self._log)

    # --- what comes in

    def _take_head(self, frame: Frame | None) -> None:
        match frame:
            case None:
                self._leave()
            case Open():
                self._take_open(frame)
            case ReceiptFrame():
                self._take_receipt(decode_canonical(frame.receipt))
            case Extend():
                self._extend(funded_by(frame.lease))
            case Close():
                self._take_close(frame)
            case _:
                raise AssertionError(f"the head does not send {frame} here")

    def _extend(self, rows: int) -> None:
        self.session.accept_extend(work_of(rows))
        self.funded_rows = rows
        self._head.send(Extended(self.session.open.session_id, rows))

    def _take_receipt(self, receipt: dict) -> None:
        assert receipt["steps"] <= self.session.carried.steps
        assert receipt["tokens"] <= self.session.carried.tokens
        self.session.accept_receipt(receipt["tokens"])
        if receipt["final"]:
            assert receipt["tokens"] == self._final.tokens
            self.session.settled()
            self._leave()

    def _take_close(self, close: Close) -> None:
        self.queue.clear()
        self._final = self.session.accept_close(close)
        if self._final is not None:
            self._head.send(self._final)
            return
        if self.state is SessionState.CLOSING:
            self.session.settled()
        self._leave()

    def _enqueue(self, frame: Frame) -> None:
        match frame:
            case Step():
                is_live = self.session.accept_step(frame)
            case Replay():
                is_live = self.session.accept_replay(frame)
            case Truncate():
                is_live = self.session.accept_truncate(frame)
            case _:
                raise AssertionError(f"nobody sends {frame}")
        if is_live:
            if self.funded_rows is not None and not isinstance(frame, Truncate):
                assert frame.position + frame.count <= self.funded_rows, "it is not paid for"
                self.session.check_covered(frame)
            self.queue.append(frame)

    # --- work

    def work(self) -> None:
        """Run what is next."""
        match frame := self.queue.popleft():
            case Step():
                self._run_step(frame)
            case Replay():
                rows = self._run(frame)
                self.session.complete_replay(frame)
                if self._links.onward(LinkRole.STEPS) and self._can_replay:
                    known = max(0, self._links.rows_there[LinkRole.STEPS] - frame.position)
                    self._replay(frame.position + known, rows[known:])
                self._links.mirror(frame.position, rows)
            case Truncate():
                self._engine.truncate(frame.position)
                self._log.truncate(frame.position)
                self.session.complete_truncate(frame)
                self._links.truncate(frame)

    def _run(self, frame: Step | Replay) -> list[bytes]:
        inputs = rows_of(frame.payload, 4 if frame.dtype is None else ROW_BYTES)
        rows = self._engine.run(frame.position, inputs)
        self._log.append(frame.position, rows)
        return rows

    def _run_step(self, step: Step) -> None:
        opened = self.session.open
        rows = self._run(step)
        samples = opened.is_last and not opened.sealed
        wanted = rows[len(rows) - step.wanted :] if opened.is_last else rows
        payload = token_bytes([draw(row) for row in wanted]) if samples else b"".join(wanted)
        digest = payload_hash(payload)
        meter = self.session.complete_step(step, bytes_out=len(payload), digest_out=digest)
        feeds_on = opened.is_last and self._feeds_on(step, payload)
        loop = int(feeds_on) if opened.is_last else step.loop
        onward = self._head if opened.is_last else self._links.onward(LinkRole.STEPS)
        onward.send(passed_on(step, opened, payload, loop=loop))
        if feeds_on:
            self._links.onward(LinkRole.LOOP).send(fed_on(step, payload))
        self._links.mirror(step.position, rows)
        if meter is not None:
            self._head.send(meter)

    def _feeds_on(self, step: Step, payload: bytes) -> bool:
        opened = self.session.open
        has_room = step.position + step.count < opened.capacity_tokens
        return step.loop > 0 and has_room and int.from_bytes(payload, "little") not in opened.eos

    def _replay(self, position: int, rows: list[bytes]) -> None:
        link, opened = self._links.onward(LinkRole.STEPS), self.session.open
        for frame in replays(opened.session_id, opened.epoch, position, rows):
            link.send(frame)
            self.session.replayed_onward(frame.payload_sha256)

    # --- ends

    def _lose(self, links: ToyLinks, end: End, code: ErrorCode) -> None:
        """A link is gone: keep what is here, and tell the head. Before the first epoch: give up."""
        if links is not self._links or self.is_over:
            return
        if self.state is SessionState.OPENING:
            self._leave()
            return
        self.session.lose_neighbour()
        if self.state is SessionState.BROKEN:
            self.queue.clear()
            opened, about = self.session.open, end.other.owner.peer
            self._head.send(
                ErrorFrame(opened.session_id, code, "a link ended", about, opened.epoch)
            )

    def _leave(self) -> None:
        """The session is over here."""
        if self.session and self.state is not SessionState.CLOSED:
            self.session.fail()
        self.queue.clear()
        for end in self.ends:
            end.close()
