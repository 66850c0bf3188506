"""What a hop may do before it is paid, and at most: credit, windows and the lease's limit."""

from collections.abc import Iterable

from protocol.errors import ErrorCode, RemoteProtocolError, SessionError
from protocol.frame import Replay, Step, StepKind
from protocol.money import Work
from protocol.session import step_work

__all__ = ["HopCredit"]


class HopCredit:
    """Of one session at a hop of so many `layers`. All None on a route without money.

    `window_tokens`, `credit_tokens` and `work_max` are those of the lease.
    """

    def __init__(
        self,
        layers: int,
        window_tokens: int | None,
        credit_tokens: int | None,
        work_max: Work | None,
    ) -> None:
        self.tokens_paid = 0
        """Rows that receipts cover."""
        self.is_metered = window_tokens is not None
        self._layers = layers
        self._window_tokens = window_tokens
        self._credit_tokens = credit_tokens
        self._work_max = work_max
        self._metered_tokens = 0
        self._replayed_tokens = 0
        """Carried when the epoch's first step could come: see `may_work`."""

    def begin_steps(self, tokens: int) -> None:
        """So many were carried when an epoch or a replay ended: windows and credit begin behind."""
        self._metered_tokens = self._replayed_tokens = tokens

    def metered(self, tokens: int) -> None:
        """A METER told of so many."""
        self._metered_tokens = tokens

    def is_window_full(self, tokens: int) -> bool:
        """Whether a METER is due."""
        if self._window_tokens is None:
            return False
        return tokens - self._metered_tokens >= self._window_tokens

    def may_work(self, tokens: int) -> bool:
        """Whether less than the credit is unpaid; else wait for a receipt.

        The credit is at least a window, so whoever waits here has sent a METER to be paid for;
        the most that is ever unpaid is the credit, one step, and what a replay came to: that is
        paid with the first window behind it.
        """
        if self._credit_tokens is None:
            return True
        return tokens - max(self.tokens_paid, self._replayed_tokens) < self._credit_tokens

    def check_covered(self, carried: Work, frames: Iterable[Step | Replay]) -> None:
        """Raise SessionError where these rows would pass the work that the lease pays for.

        What leaves this hop need not be looked at: no row leaves more often than it came in.
        """
        if self._work_max is None:
            return
        work, position = carried, 0
        for rows in frames:
            kind = StepKind.PREFILL if isinstance(rows, Replay) else rows.kind
            work += step_work(
                kind, rows.count, self._layers, bytes_in=len(rows.payload), bytes_out=0
            )
            position = rows.position
        if not self._work_max.covers(work):
            raise SessionError(
                f"The rows up to position {position} are beyond what the lease pays for.",
                code=ErrorCode.UNPAID,
                hint="Extend the lease before sending them.",
            )

    def check_grows(self, work_max: Work) -> None:
        """Raise RemoteProtocolError unless the lease may come again with this limit."""
        if self._work_max is None:
            raise RemoteProtocolError("EXTEND came on a session without a lease.")
        if not work_max.covers(self._work_max):
            raise RemoteProtocolError("EXTEND cannot lower what a lease pays for.")

    def grow(self, work_max: Work) -> None:
        """After `check_grows`: work up to it from now on."""
        self._work_max = work_max
