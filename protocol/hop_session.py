"""One session as a hop sees it: what may come next, what has been carried, what is unpaid.

Sans-IO: `node/serve` feeds it frames and sends what it returns. It owns no KV and no stream.
"""

from dataclasses import replace

from protocol.carried import Carried, History
from protocol.errors import ErrorCode, RemoteProtocolError, SessionError
from protocol.frame import Close, Meter, Open, Replay, Step, StepKind, Truncate
from protocol.hop_credit import HopCredit
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.money import Work
from protocol.sent_meters import SentMeters
from protocol.session import Event, SessionState, advance, step_work
from protocol.tensor import extend_link_hash

__all__ = ["HopSession"]

_SAME_IN_EVERY_EPOCH = (
    "session_id", "hop_index", "hop_count", "manifest_hash", "span", "wire_dtype", "sealed",
    "capacity_tokens", "sampling",
)  # fmt: skip


class HopSession:
    """State of one session at one hop. `hidden_size` is the model's.

    `window_tokens`, `credit_tokens` and `work_max` come from the lease; None on a route without
    money, where no meter is due and nothing is unpaid.
    """

    def __init__(
        self,
        opened: Open,
        *,
        hidden_size: int,
        window_tokens: int | None = None,
        credit_tokens: int | None = None,
        work_max: Work | None = None,
    ) -> None:
        self.open = opened
        self.state = SessionState.OPENING
        self.position = 0
        """Where the next step must begin: rows accepted so far, and those that were here."""
        self.rows = 0
        """Rows that are in the engine for certain: those were run, or here from the beginning."""
        self._hidden_size = hidden_size
        self._credit = HopCredit(len(opened.span), window_tokens, credit_tokens, work_max)
        self.sent_meters = SentMeters()
        self._resume = opened.resume
        """Rows that replays may bring, and must before a step; a truncate may take some back."""
        self._start = Carried()
        """As the epoch began."""
        self._history = History(self._start)

    @property
    def carried(self) -> Carried:
        return self._history.last

    @property
    def tokens_paid(self) -> int:
        """Rows that receipts cover."""
        return self._credit.tokens_paid

    @property
    def is_behind(self) -> bool:
        """Whether REPLAY has yet to bring rows before the first step may."""
        return self.position < self._resume

    def ready(self, *, cached_tokens: int = 0) -> None:
        """KV is reserved and the link onward stands; so many rows are here already."""
        self.state = advance("hop", self.state, Event.OPENED, ours=True)
        self.position = self.rows = cached_tokens

    def reopen(self, request: Open) -> int:
        """Take the OPEN of a later epoch: how many rows stay. Raises RemoteProtocolError.

        What had not arrived at the head is not counted: it will be run again. Nor is a replay
        behind which no step has come: the head cannot know how much of it was run. Steps and link
        hashes begin anew; rows beyond those that stay must be taken from the engine.
        """
        if request.epoch <= self.open.epoch:
            raise RemoteProtocolError(f"OPEN of epoch {request.epoch} is not a later one.")
        for name in _SAME_IN_EVERY_EPOCH:
            if getattr(request, name) != getattr(self.open, name):
                raise RemoteProtocolError(f"A repair cannot change a session's {name}.")
        arrived = self._history.as_of(request.steps)
        if arrived.steps == 0:
            arrived = self._start
        if arrived.tokens < self.tokens_paid:
            raise RemoteProtocolError("A repair cannot take back work that a receipt covers.")
        self.state = advance("hop", self.state, Event.REOPEN)
        self._start = Carried(tokens=arrived.tokens, work=arrived.work)
        self._history = History(self._start)
        # meters of the epoch before are void, and windows begin anew: at the same step at every hop
        self._credit.begin_steps(arrived.tokens)
        self.open, self._resume = request, request.resume
        self.rows = 0 if request.forget else min(self.rows, request.resume)
        self.position = self.rows
        return self.rows

    def lose_neighbour(self) -> None:
        """A link has ended or failed: keep what is here until the head repairs or closes."""
        self.state = advance("hop", self.state, Event.LOST, ours=True)

    def fail(self) -> None:
        self.state = advance("hop", self.state, Event.FAIL)

    def accept_step(self, step: Step) -> bool:
        """Take a step in order; False if it is void (an older epoch, or after CLOSE).

        Raises RemoteProtocolError when it is not the step that comes next, and SessionError when
        it would pass the capacity that was reserved.
        """
        self._check_session(step.session_id)
        if step.epoch < self.open.epoch:
            return False
        self.state = advance("hop", self.state, Event.STEP)
        if self.state is not SessionState.READY:
            return False
        if self.open.standby or self.is_behind:
            raise RemoteProtocolError("A step came before the rows it rests on.")
        self._check_next(step)
        return True

    def accept_replay(self, replay: Replay) -> bool:
        """Take rows of a replay in order; False if void. Raises as accept_step."""
        self._check_session(replay.session_id)
        if replay.epoch < self.open.epoch:
            return False
        self.state = advance("hop", self.state, Event.REPLAY)
        if self.state is not SessionState.READY:
            return False
        if not self.open.standby and replay.position + replay.count > self._resume:
            raise RemoteProtocolError("A replay goes beyond the rows that the session has.")
        self._check_next(replay)
        return True

    def may_work(self) -> bool:
        """Whether less than the credit is unpaid; else wait for a receipt."""
        return self._credit.may_work(self.carried.tokens)

    def check_covered(self, *frames: Step | Replay) -> None:
        """Raise SessionError where these rows would pass the work that the lease pays for.

        To be asked when they are about to run.
        """
        self._credit.check_covered(self.carried.work, frames)

    def accept_extend(self, work_max: Work) -> None:
        """The lease came again with these limits, and was verified; they only grow."""
        self._credit.check_grows(work_max)
        self.state = advance("hop", self.state, Event.EXTEND)
        self._credit.grow(work_max)

    def complete_step(self, step: Step, *, bytes_out: int, digest_out: bytes) -> Meter | None:
        """Count a step that has left this hop; the METER if a window is full."""
        before = self.carried
        layers = len(self.open.span)
        self.rows = step.position + step.count
        self._history.append(
            Carried(
                steps=before.steps + 1,
                tokens=before.tokens + step.count,
                work=before.work
                + step_work(
                    step.kind, step.count, layers, bytes_in=len(step.payload), bytes_out=bytes_out
                ),
                link_in_hash=extend_link_hash(before.link_in_hash, step.payload_sha256),
                link_out_hash=extend_link_hash(before.link_out_hash, digest_out),
            )
        )
        if not self._credit.is_window_full(self.carried.tokens):
            return None
        return self._meter(self.carried, final=False)

    def complete_replay(self, replay: Replay) -> None:
        """Count rows that have been run again: as prefill, and what came in for them."""
        work = step_work(
            StepKind.PREFILL, replay.count, len(self.open.span),
            bytes_in=len(replay.payload), bytes_out=0,
        )  # fmt: skip
        before = self.carried
        self.rows = replay.position + replay.count
        self._history.last = replace(
            before,
            tokens=before.tokens + replay.count,
            work=before.work + work,
            link_in_hash=extend_link_hash(before.link_in_hash, replay.payload_sha256),
        )
        self._credit.begin_steps(self.carried.tokens)

    def replayed_onward(self, digest: bytes) -> None:
        """A REPLAY has left for the next hop: its link's hash has it, and nobody is billed."""
        before = self.carried
        self._history.last = replace(
            before, link_out_hash=extend_link_hash(before.link_out_hash, digest)
        )

    def accept_truncate(self, truncate: Truncate) -> bool:
        """Take back rows; False if void. Work that was done stays counted."""
        self._check_session(truncate.session_id)
        if truncate.epoch < self.open.epoch:
            return False
        self.state = advance("hop", self.state, Event.TRUNCATE)
        if self.state is not SessionState.READY:
            return False
        if truncate.epoch != self.open.epoch or truncate.position > self.position:
            raise RemoteProtocolError(f"Nothing to truncate at position {truncate.position}.")
        self.position = truncate.position
        self._resume = min(self._resume, truncate.position)
        return True

    def complete_truncate(self, truncate: Truncate) -> None:
        """The engine has forgotten the rows."""
        self.rows = min(self.rows, truncate.position)

    def accept_receipt(self, tokens: int) -> None:
        """A verified receipt covers `tokens` rows in all."""
        self.state = advance("hop", self.state, Event.RECEIPT)
        self._credit.tokens_paid = max(self.tokens_paid, tokens)

    def accept_close(self, close: Close) -> Meter | None:
        """The session is over; the last METER, as of the step that reached the head.

        None where no money is involved or the session never became ready. Raises
        RemoteProtocolError where it would keep more rows than there are.
        """
        self._check_session(close.session_id)
        if len(close.keep) * PREFIX_BLOCK_TOKENS > self.rows:
            raise RemoteProtocolError(f"CLOSE keeps more than the {self.rows} rows that were run.")
        self.state = advance("hop", self.state, Event.CLOSE)
        if self.state is not SessionState.CLOSING or not self._credit.is_metered:
            return None
        return self._meter(self._history.as_of(close.steps), final=True)

    def settled(self) -> None:
        """The final receipt is in, or none is due."""
        self.state = advance("hop", self.state, Event.SETTLED, ours=True)

    def _meter(self, carried: Carried, *, final: bool) -> Meter:
        self._credit.metered(carried.tokens)
        meter = Meter(
            session_id=self.open.session_id,
            epoch=self.open.epoch,
            steps=carried.steps,
            tokens=carried.tokens,
            work=carried.work,
            link_in_hash=carried.link_in_hash,
            link_out_hash=carried.link_out_hash,
            final=final,
        )
        return self.sent_meters.keep(meter)

    def _check_session(self, session_id: bytes) -> None:
        if session_id != self.open.session_id:
            raise RemoteProtocolError("The frame belongs to another session.")

    def _check_next(self, rows: Step | Replay) -> None:
        """Whether these are the rows that come next, of the right content; moves `position`."""
        takes_tokens = self.open.hop_index == 0 and not self.open.sealed
        expected = None if takes_tokens else self.open.wire_dtype
        if rows.dtype is not expected:
            raise RemoteProtocolError(f"This hop takes {expected or 'tokens'}, not {rows.dtype}.")
        if expected is not None and rows.hidden_size != self._hidden_size:
            raise RemoteProtocolError(
                f"The step's hidden size is {rows.hidden_size}, the model's {self._hidden_size}."
            )
        if rows.epoch != self.open.epoch or rows.position != self.position:
            raise RemoteProtocolError(
                f"A step at position {rows.position} (epoch {rows.epoch}) came, but "
                f"{self.position} (epoch {self.open.epoch}) is next."
            )
        if rows.position + rows.count > self.open.capacity_tokens:
            raise SessionError(
                f"The step passes the {self.open.capacity_tokens} tokens that were reserved.",
                code=ErrorCode.CONTEXT_TOO_LONG,
            )
        self.position += rows.count
