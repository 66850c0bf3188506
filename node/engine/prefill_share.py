"""How many rows of prefill the next batch may hold, so that decodes do not stall behind them.

Pure: durations and `now` are arguments, in seconds of one monotonic clock.
"""

from collections import OrderedDict
from collections.abc import Iterable

from node.engine.channel import BATCH_ROWS_MAX
from node.engine.step_cost import StepCost
from protocol.limits import STEP_TOKENS_MAX

__all__ = ["DECODE_STALL_MAX_S", "PREFILL_ROWS_MIN", "PrefillShare"]

DECODE_STALL_MIN_S = 0.02
"""What prefill may always add to a decode step: 50 tokens a second are faster than anyone reads."""

DECODE_STALL_MAX_S = 0.2
"""What it may add at most, however slow a step is: a reader sees a pause of a quarter second."""

PREFILL_ALONE_S = 1.0
"""What it may add to a batch while nobody decodes: a close waits for the batch in flight, and a
vanished client's KV is to be free within a second."""

PREFILL_ALONE_STEPS = 4
"""The same, in steps: where a step is slow, four fifths of the time still go to prefill's rows."""

PREFILL_ROWS_MIN = 16
"""The least share, so that prefill always moves, and what shares are multiples of: matrix units
work on tiles of 16 rows."""

PREFILL_ROWS_FIRST = 64
"""The share beside decodes before any prefill was timed: measured 1.8 times the step of one row."""

DECODING_S = 1.0
"""How long after a step its sequence is expected back with the next: a round trip of a ring over
continents with its compute."""

DECODING_MAX = BATCH_ROWS_MAX
"""Sequences remembered as decoding: one batch full of them."""


class PrefillShare:
    """Owned by its scheduler, which tells it what ran.

    While anybody decodes, a batch may take about one more decode step for its prefill, within
    DECODE_STALL_MIN_S and `decode_stall_max_s`; infinite treats prefill as if nobody did.
    """

    def __init__(self, decode_stall_max_s: float) -> None:
        self._decode_stall_max_s = decode_stall_max_s
        self._cost = StepCost()
        self._decoding: OrderedDict[int, float] = OrderedDict()
        """Sequences whose last step was a short one, by when it ran, oldest first."""

    def rows_max(self, now: float, *, short_waits: bool, batch_rows_max: int) -> int:
        """Rows of prefill in the next batch, at least PREFILL_ROWS_MIN."""
        if self._decode_stall_max_s < float("inf") and (short_waits or self._expects_short(now)):
            stall_s = max(self._cost.base_s, DECODE_STALL_MIN_S)
            stall_s = min(stall_s, self._decode_stall_max_s)
            # What a full chunk would take stays free for short rows.
            return self._rows_in(stall_s, PREFILL_ROWS_FIRST, batch_rows_max - STEP_TOKENS_MAX)
        alone_s = max(PREFILL_ALONE_S, PREFILL_ALONE_STEPS * self._cost.base_s)
        return self._rows_in(alone_s, STEP_TOKENS_MAX, batch_rows_max)

    def note_batch(self, prefill_rows: int, duration_s: float) -> None:
        """A batch with so many prefill rows took that long."""
        self._cost.add(prefill_rows, duration_s)

    def note_short(self, sequence_ids: Iterable[int], now: float) -> None:
        """The sequences run a short step in the batch that begins now."""
        decoding = self._decoding
        for sequence_id in sequence_ids:
            decoding.pop(sequence_id, None)
            decoding[sequence_id] = now
        while len(decoding) > DECODING_MAX:
            decoding.popitem(last=False)

    def forget(self, sequence_id: int) -> None:
        """The sequence is closed or has a prefill queued: it does not come back with a decode."""
        self._decoding.pop(sequence_id, None)

    def _rows_in(self, seconds: float, first: int, rows_max: int) -> int:
        """Rows that add that much to a batch; `first` while that is not known."""
        row_s = self._cost.row_s
        if row_s is None:
            return min(first, rows_max)
        if row_s * rows_max <= seconds:
            return rows_max
        rows = int(seconds / row_s) // PREFILL_ROWS_MIN * PREFILL_ROWS_MIN
        return max(rows, PREFILL_ROWS_MIN)

    def _expects_short(self, now: float) -> bool:
        """Whether a decode is about to come, though none waits: it would wait for the batch."""
        decoding = self._decoding
        while decoding and next(iter(decoding.values())) < now - DECODING_S:
            decoding.popitem(last=False)
        return bool(decoding)
