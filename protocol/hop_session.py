"""One session as a hop sees it: what may come next, what has been carried, what is unpaid.

Sans-IO: `node/serve` feeds it frames and sends what it returns. It owns no KV and no stream.
"""

from collections import deque
from dataclasses import dataclass, replace

from protocol.errors import ErrorCode, RemoteProtocolError, SessionError
from protocol.frame import LOOP_MAX, Close, Meter, Open, Replay, Step, StepKind, Truncate
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.money import Work
from protocol.sent_meters import SentMeters
from protocol.session import STEPS_IN_FLIGHT_MAX, Event, SessionState, advance, step_work
from protocol.tensor import LINK_HASH_START, extend_link_hash

__all__ = ["HopSession"]

HISTORY_MAX = 2 * STEPS_IN_FLIGHT_MAX + LOOP_MAX
"""Snapshots kept: a CLOSE may refer back as many steps as can be on their way, a loop's too."""

_NOTHING = Work()
_SAME_IN_EVERY_EPOCH = (
    "session_id", "hop_index", "hop_count", "manifest_hash", "span", "wire_dtype", "sealed",
    "capacity_tokens", "sampling",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Carried:
    """Totals: `tokens` and `work` since the lease began, the rest since the epoch did."""

    steps: int = 0
    tokens: int = 0
    work: Work = _NOTHING
    link_in_hash: bytes = LINK_HASH_START
    link_out_hash: bytes = LINK_HASH_START


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
        self.tokens_paid = 0
        self._hidden_size = hidden_size
        self._window_tokens = window_tokens
        self._credit_tokens = credit_tokens
        self._work_max = work_max
        self._metered_tokens = 0
        self.sent_meters = SentMeters()
        self._replayed_tokens = 0
        """Carried when the epoch's first step could come: see `may_work`."""
        self._resume = opened.resume
        """Rows that replays may bring, and must before a step; a truncate may take some back."""
        self._start = _Carried()
        """As the epoch began."""
        self._history: deque[_Carried] = deque([self._start], maxlen=HISTORY_MAX)

    @property
    def carried(self) -> _Carried:
        return self._history[-1]

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
        arrived = self._as_of(request.steps)
        if arrived.steps == 0:
            arrived = self._start
        if arrived.tokens < self.tokens_paid:
            raise RemoteProtocolError("A repair cannot take back work that a receipt covers.")
        self.state = advance("hop", self.state, Event.REOPEN)
        self._start = _Carried(tokens=arrived.tokens, work=arrived.work)
        self._history.clear()
        self._history.append(self._start)
        # meters of the epoch before are void, and windows begin anew: at the same step at every hop
        self._metered_tokens = self._replayed_tokens = arrived.tokens
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
        """Whether less than the credit is unpaid; else wait for a receipt.

        The credit is at least a window, so whoever waits here has sent a METER to be paid for;
        the most that is ever unpaid is the credit, one step, and what a replay came to: that is
        paid with the first window behind it.
        """
        if self._credit_tokens is None:
            return True
        covered = max(self.tokens_paid, self._replayed_tokens)
        return self.carried.tokens - covered < self._credit_tokens

    def check_covered(self, *frames: Step | Replay) -> None:
        """Raise SessionError where these rows would pass the work that the lease pays for.

        To be asked when they are about to run. What leaves this hop need not be looked at: no row
        leaves more often than it came in.
        """
        if self._work_max is None:
            return
        work = self.carried.work
        for rows in frames:
            kind = StepKind.PREFILL if isinstance(rows, Replay) else rows.kind
            work += step_work(
                kind, rows.count, len(self.open.span), bytes_in=len(rows.payload), bytes_out=0
            )
        if not self._work_max.covers(work):
            raise SessionError(
                f"The rows at position {frames[0].position} are beyond what the lease pays for.",
                code=ErrorCode.UNPAID,
                hint="Extend the lease before sending them.",
            )

    def accept_extend(self, work_max: Work) -> None:
        """The lease came again with these limits, and was verified; they only grow."""
        if self._work_max is None:
            raise RemoteProtocolError("EXTEND came on a session without a lease.")
        if not work_max.covers(self._work_max):
            raise RemoteProtocolError("EXTEND cannot lower what a lease pays for.")
        self.state = advance("hop", self.state, Event.EXTEND)
        self._work_max = work_max

    def complete_step(self, step: Step, *, bytes_out: int, digest_out: bytes) -> Meter | None:
        """Count a step that has left this hop; the METER if a window is full."""
        before = self.carried
        layers = len(self.open.span)
        self.rows = step.position + step.count
        self._history.append(
            _Carried(
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
        if self._window_tokens is None:
            return None
        if self.carried.tokens - self._metered_tokens < self._window_tokens:
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
        self._history[-1] = replace(
            before,
            tokens=before.tokens + replay.count,
            work=before.work + work,
            link_in_hash=extend_link_hash(before.link_in_hash, replay.payload_sha256),
        )
        self._metered_tokens = self._replayed_tokens = self.carried.tokens

    def replayed_onward(self, digest: bytes) -> None:
        """A REPLAY has left for the next hop: its link's hash has it, and nobody is billed."""
        before = self.carried
        self._history[-1] = replace(
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
        self.tokens_paid = max(self.tokens_paid, tokens)

    def accept_close(self, close: Close) -> Meter | None:
        """The session is over; the last METER, as of the step that reached the head.

        None where no money is involved or the session never became ready. Raises
        RemoteProtocolError where it would keep more rows than there are.
        """
        self._check_session(close.session_id)
        if len(close.keep) * PREFIX_BLOCK_TOKENS > self.rows:
            raise RemoteProtocolError(f"CLOSE keeps more than the {self.rows} rows that were run.")
        self.state = advance("hop", self.state, Event.CLOSE)
        if self.state is not SessionState.CLOSING or self._window_tokens is None:
            return None
        return self._meter(self._as_of(close.steps), final=True)

    def settled(self) -> None:
        """The final receipt is in, or none is due."""
        self.state = advance("hop", self.state, Event.SETTLED, ours=True)

    def _as_of(self, steps: int) -> _Carried:
        """What was carried when so many results of this epoch had reached the head."""
        for carried in reversed(self._history):
            if carried.steps <= steps:
                return carried
        raise RemoteProtocolError(f"The head refers to step {steps}, too far back to recall.")

    def _meter(self, carried: _Carried, *, final: bool) -> Meter:
        self._metered_tokens = carried.tokens
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
