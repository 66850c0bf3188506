"""One session as a hop sees it: what may come next, what has been carried, what is unpaid.

Sans-IO: `serve/server.py` feeds it frames and sends what it returns. It owns no KV and no stream.
"""

from collections import deque
from dataclasses import dataclass

from protocol.errors import ErrorCode, RemoteProtocolError, SessionError
from protocol.frame import Close, Meter, Open, Step, Truncate
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.money import Work
from protocol.session import STEPS_IN_FLIGHT_MAX, Event, SessionState, advance, step_work
from protocol.tensor import LINK_HASH_START, extend_link_hash

__all__ = ["HopSession"]

HISTORY_MAX = 2 * STEPS_IN_FLIGHT_MAX
"""Snapshots kept: a CLOSE may refer back as many steps as can be on their way."""


_NOTHING = Work()


@dataclass(frozen=True, slots=True)
class _Carried:
    """Cumulative totals after `steps` steps."""

    steps: int = 0
    tokens: int = 0
    work: Work = _NOTHING
    link_in_hash: bytes = LINK_HASH_START
    link_out_hash: bytes = LINK_HASH_START


class HopSession:
    """State of one session at one hop. `hidden_size` is the model's.

    `window_tokens` and `credit_tokens` come from the lease; None on a route without money, where
    no meter is due and nothing is unpaid.
    """

    def __init__(
        self,
        opened: Open,
        *,
        hidden_size: int,
        window_tokens: int | None = None,
        credit_tokens: int | None = None,
    ) -> None:
        self.open = opened
        self.state = SessionState.OPENING
        self.position = 0
        """Where the next step must begin: rows accepted so far, and those that were here."""
        self._rows = 0
        """Rows that are in the engine for certain: those were run, or here from the beginning."""
        self.tokens_paid = 0
        self._hidden_size = hidden_size
        self._window_tokens = window_tokens
        self._credit_tokens = credit_tokens
        self._metered_tokens = 0
        self._history: deque[_Carried] = deque([_Carried()], maxlen=HISTORY_MAX)

    @property
    def carried(self) -> _Carried:
        return self._history[-1]

    def ready(self, *, cached_tokens: int = 0) -> None:
        """KV is reserved and the link onward stands; so many rows of the prefix are here."""
        self.state = advance("hop", self.state, Event.OPENED, ours=True)
        self.position = self._rows = cached_tokens

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
        self._check_content(step)
        if step.epoch != self.open.epoch or step.position != self.position:
            raise RemoteProtocolError(
                f"A step at position {step.position} (epoch {step.epoch}) came, but "
                f"{self.position} (epoch {self.open.epoch}) is next."
            )
        if step.position + step.count > self.open.capacity_tokens:
            raise SessionError(
                f"The step passes the {self.open.capacity_tokens} tokens that were reserved.",
                code=ErrorCode.CONTEXT_TOO_LONG,
            )
        self.position += step.count
        return True

    def may_work(self) -> bool:
        """Whether less than the credit is unpaid; else wait for a receipt.

        The credit is at least a window, so whoever waits here has sent a METER to be paid for;
        the most that is ever unpaid is the credit and one step.
        """
        if self._credit_tokens is None:
            return True
        return self.carried.tokens - self.tokens_paid < self._credit_tokens

    def complete_step(self, step: Step, *, bytes_out: int, digest_out: bytes) -> Meter | None:
        """Count a step that has left this hop; the METER if a window is full."""
        before = self.carried
        layers = len(self.open.span)
        self._rows = min(step.position + step.count, self.position)
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
        self._rows = min(self._rows, truncate.position)
        return True

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
        if len(close.keep) * PREFIX_BLOCK_TOKENS > self._rows:
            raise RemoteProtocolError(f"CLOSE keeps more than the {self._rows} rows that were run.")
        self.state = advance("hop", self.state, Event.CLOSE)
        if self.state is not SessionState.CLOSING or self._window_tokens is None:
            return None
        for carried in reversed(self._history):
            if carried.steps <= close.steps:
                return self._meter(carried, final=True)
        raise RemoteProtocolError(f"CLOSE refers to step {close.steps}, too far back to recall.")

    def settled(self) -> None:
        """The final receipt is in, or none is due."""
        self.state = advance("hop", self.state, Event.SETTLED, ours=True)

    def _meter(self, carried: _Carried, *, final: bool) -> Meter:
        self._metered_tokens = carried.tokens
        return Meter(
            session_id=self.open.session_id,
            epoch=self.open.epoch,
            steps=carried.steps,
            tokens=carried.tokens,
            work=carried.work,
            link_in_hash=carried.link_in_hash,
            link_out_hash=carried.link_out_hash,
            final=final,
        )

    def _check_session(self, session_id: bytes) -> None:
        if session_id != self.open.session_id:
            raise RemoteProtocolError("The frame belongs to another session.")

    def _check_content(self, step: Step) -> None:
        takes_tokens = self.open.hop_index == 0 and not self.open.sealed
        expected = None if takes_tokens else self.open.wire_dtype
        if step.dtype is not expected:
            raise RemoteProtocolError(f"This hop takes {expected or 'tokens'}, not {step.dtype}.")
        if expected is not None and step.hidden_size != self._hidden_size:
            raise RemoteProtocolError(
                f"The step's hidden size is {step.hidden_size}, the model's {self._hidden_size}."
            )
