"""What a batch costs: duration ≈ base + slope x prefill rows, learned from the batches that ran.

Least squares over exponentially weighted sums, six numbers of state. The base is a step of the
decodes of late: their rows ride along nearly free where memory is the bound, and elsewhere the
base follows their number. No clock here.
"""

import math

__all__ = ["StepCost"]

FORGET = 0.95
"""Weight of a batch against the next one: about twenty batches of memory, a second or two."""

OUTLIER = 4.0
"""A batch this many times slower or quicker than foreseen counts as only that many times.

A laptop that slept between two batches must not stop prefill; a lasting change is still followed,
four-fold at a time.
"""

SPREAD_MIN = 0.25
"""Spread of the rows, as a share of their mean, below which their slope is noise: the old stays."""


class StepCost:
    """Base and slope, in seconds. Owned by its scheduler."""

    def __init__(self) -> None:
        self._slope_s: float | None = None
        self._weight = 0.0
        self._rows = 0.0
        self._seconds = 0.0
        self._rows_squared = 0.0
        self._rows_seconds = 0.0

    @property
    def base_s(self) -> float:
        """Of a batch without prefill."""
        if not self._weight:
            return 0.0
        slope_s = self._slope_s or 0.0
        return max((self._seconds - slope_s * self._rows) / self._weight, 0.0)

    @property
    def row_s(self) -> float | None:
        """Of one prefill row more; None before a batch with prefill."""
        return self._slope_s

    def predict_s(self, rows: int) -> float:
        """Of a batch with `rows` prefill rows; 0 as long as nothing is known of such."""
        if rows and self._slope_s is None:
            return 0.0
        return self.base_s + (self._slope_s or 0.0) * rows

    def add(self, rows: int, duration_s: float) -> None:
        """A batch with `rows` prefill rows took that long."""
        if not math.isfinite(duration_s) or duration_s <= 0:
            return  # a clock that stood still teaches nothing
        foreseen_s = self.predict_s(rows)
        if foreseen_s > 0:
            duration_s = min(max(duration_s, foreseen_s / OUTLIER), foreseen_s * OUTLIER)
        self._weight = FORGET * self._weight + 1
        self._rows = FORGET * self._rows + rows
        self._seconds = FORGET * self._seconds + duration_s
        self._rows_squared = FORGET * self._rows_squared + rows * rows
        self._rows_seconds = FORGET * self._rows_seconds + rows * duration_s
        self._fit()

    def _fit(self) -> None:
        mean_rows, mean_s = self._rows / self._weight, self._seconds / self._weight
        if mean_rows < 1e-6:  # decodes alone for long: the slope of before is the best there is
            return
        steepest = mean_s / mean_rows  # a base below zero is none
        variance = self._rows_squared / self._weight - mean_rows * mean_rows
        if variance > (SPREAD_MIN * mean_rows) ** 2:
            covariance = self._rows_seconds / self._weight - mean_rows * mean_s
            self._slope_s = min(max(covariance / variance, 0.0), steepest)
        elif self._slope_s is None:
            self._slope_s = steepest  # all the same so far: as if all the time went to the rows
        else:
            self._slope_s = min(self._slope_s, steepest)
