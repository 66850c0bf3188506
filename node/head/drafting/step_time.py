"""How long a step takes by its rows, seen from the head: elapsed ≈ base + slope x rows.

The base is what every trip takes (links, weights read at each hop), the slope what one row more
adds (its bytes on each link, its arithmetic at each hop). Both are learned from what steps took, by
least squares over sums that forget. Beside it stands what a step keeps the slowest hop or link for
itself: steps that follow one another closely come back at least that far apart. No clock here.
"""

import math

__all__ = ["StepTime"]

FORGET = 0.95
"""Weight of a step against the next one: about twenty of memory, a few seconds of an answer."""

OUTLIER = 2.0
"""A step this many times slower or quicker than foreseen counts as only that many times: a lost
packet is no slow link. A lasting change is still followed, two-fold at a time."""

WARM_UP_STEPS = 3
"""The first steps count as at most OUTLIER times the quickest of them: engines start cold."""

SLOPE_FIRST = 0.05
"""Slope as a share of the base, until steps of different lengths have been seen."""

SLOPE_MIN = 0.004
"""No row is free, whatever the noise says: as a share of the base."""

SPREAD_MIN = 0.2
"""Variance of the rows below which their slope is noise, and the old one stays."""

QUEUED = 1.1
"""A step that took this many times what it would have alone had to wait for the one before it."""

FLAT_STEPS_MAX = 64
"""Steps of one length after which another length is due: else a wrong slope would never show."""

INSTANT_S = 1e-6
"""No step is as quick as this: its clock stood still."""

FOLLOW = 0.3
"""Weight of a new time between two steps against all before it."""


class StepTime:
    """In seconds. Of one session; `hop_count` of its route."""

    def __init__(self, hop_count: int = 1) -> None:
        self._hop_count = hop_count
        self._first: list[tuple[int, float]] = []
        self._slope_s: float | None = None
        self._prefill: tuple[int, float] | None = None
        self._busy_s: float | None = None
        self._flat_steps = 0
        """Steps since the last two lengths that differed."""
        self._clear()

    @property
    def is_known(self) -> bool:
        """Whether any step has been seen."""
        return self._weight > 0

    @property
    def is_flat(self) -> bool:
        """Whether a step of another length is due."""
        return self._flat_steps > FLAT_STEPS_MAX

    @property
    def base_s(self) -> float:
        """Of a step without rows; 1 as long as nothing is known, so that shares of it are right."""
        if not self._weight:
            return 1.0
        return max((self._seconds - self.slope_s * self._rows) / self._weight, INSTANT_S)

    @property
    def slope_s(self) -> float:
        """Of one row more."""
        mean_s = self._seconds / self._weight if self._weight else 1.0
        return max(self._learned_slope(mean_s), SLOPE_MIN * mean_s)

    def predict_s(self, rows: int) -> float:
        """Of a step that travels alone."""
        return self.base_s + self.slope_s * rows

    def busy_s(self, rows: int) -> float:
        """How long a step keeps the slowest part of the route for itself."""
        # as if all links and hops were alike, until steps have followed one another
        guess_s = self.base_s / (2 * self._hop_count + 1)
        base_s = guess_s if self._busy_s is None else self._busy_s
        return base_s + self.slope_s / self._hop_count * rows

    def note_prefill(self, rows: int, elapsed_s: float) -> None:
        """A chunk of the prompt that travelled alone: a first idea of what a row takes."""
        if rows > 1 and _is_sound(elapsed_s):
            self._prefill = (rows, elapsed_s)

    def note(self, rows: int, elapsed_s: float) -> None:
        """A step that travelled alone took that long from the head to the head."""
        if not _is_sound(elapsed_s):
            return
        if len(self._first) < WARM_UP_STEPS:
            self._first.append((rows, elapsed_s))
            self._clear()
            quickest_s = min(seconds for _, seconds in self._first)
            for first_rows, seconds in self._first:
                self._add(first_rows, min(seconds, OUTLIER * quickest_s))
        else:
            foreseen_s = self.predict_s(rows)
            self._add(rows, min(max(elapsed_s, foreseen_s / OUTLIER), foreseen_s * OUTLIER))
        self._fit()

    def note_behind(self, rows: int, elapsed_s: float, gap_s: float) -> None:
        """A step that was sent while another was on its way came back `gap_s` behind that one."""
        if not _is_sound(elapsed_s) or not math.isfinite(gap_s) or gap_s < 0:
            return
        foreseen_s = self.predict_s(rows)
        base_s = max(gap_s - self.slope_s / self._hop_count * rows, 0.0)
        known_s = self.base_s if self._busy_s is None else self._busy_s
        if elapsed_s > QUEUED * foreseen_s:
            # it queued: the gap is what the step before it took, whichever way that changes
            base_s = min(base_s, OUTLIER * known_s) if self._busy_s is not None else base_s
            self._busy_s = base_s if self._busy_s is None else known_s + FOLLOW * (base_s - known_s)
        else:
            self._busy_s = min(known_s, base_s)
        if elapsed_s < foreseen_s:
            self.note(rows, elapsed_s)

    def _learned_slope(self, mean_s: float) -> float:
        if self._slope_s is not None:
            return self._slope_s
        if self._prefill is not None and self._weight:
            rows, seconds = self._prefill
            return max(seconds - mean_s, 0.0) / max(rows - self._rows / self._weight, 1.0)
        return SLOPE_FIRST * mean_s

    def _clear(self) -> None:
        self._weight = self._rows = self._seconds = 0.0
        self._rows_squared = self._rows_seconds = 0.0

    def _add(self, rows: int, seconds: float) -> None:
        self._weight = FORGET * self._weight + 1
        self._rows = FORGET * self._rows + rows
        self._seconds = FORGET * self._seconds + seconds
        self._rows_squared = FORGET * self._rows_squared + rows * rows
        self._rows_seconds = FORGET * self._rows_seconds + rows * seconds

    def _fit(self) -> None:
        mean_rows, mean_s = self._rows / self._weight, self._seconds / self._weight
        variance = self._rows_squared / self._weight - mean_rows * mean_rows
        self._flat_steps += 1
        if variance < SPREAD_MIN:
            return
        self._flat_steps = 0
        covariance = self._rows_seconds / self._weight - mean_rows * mean_s
        self._slope_s = min(max(covariance / variance, 0.0), mean_s / mean_rows)


def _is_sound(seconds: float) -> bool:
    """A clock that stood still or ran wild teaches nothing."""
    return math.isfinite(seconds) and seconds > INSTANT_S
