"""Whether processes grow: samples over a run, and the slope behind the warm-up. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["FIELDS", "Growth", "Slope", "slope"]

FIELDS: Final = ("rss_kib", "fds", "tasks", "connections")
WARM_SHARE: Final = 0.3
"""Of a process's samples: caches fill, allocators find their size."""
SAMPLES_MIN: Final = 5
LIFE_SAMPLES_MIN: Final = 10
"""Of a provider: shorter lives are all warm-up. Faults that end no process leave long ones."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Of one quantity in one process."""

    first: float
    """The line's value where the warm-up ends."""
    last: float
    """And at the end."""
    per_answer: float


@dataclass(slots=True)
class Growth:
    """Samples by process life, each at the number of answers that its lane had given."""

    samples: dict[str, list[tuple[int, dict[str, int]]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, process: str, answers: int, values: dict[str, int]) -> None:
        kept = {name: values[name] for name in FIELDS if name in values}
        self.samples[process].append((answers, kept))

    def slopes(self, process: str) -> dict[str, Slope]:
        """Of one life; empty where it was too short."""
        samples = self.samples.get(process, [])
        warm = samples[int(WARM_SHARE * len(samples)) :]
        if len(warm) < SAMPLES_MIN:
            return {}
        names = [name for name in FIELDS if all(name in values for _, values in warm)]
        return {name: slope([(x, values[name]) for x, values in warm]) for name in names}

    def pooled_kib_per_answer(self, prefix: str) -> float | None:
        """Memory of all lives whose name begins so, over the answers of their lanes meanwhile."""
        grown = spent = 0.0
        for process, samples in self.samples.items():
            warm = samples[int(WARM_SHARE * len(samples)) :]
            if process.startswith(prefix) and len(samples) >= LIFE_SAMPLES_MIN:
                grown += warm[-1][1]["rss_kib"] - warm[0][1]["rss_kib"]
                spent += warm[-1][0] - warm[0][0]
        return grown / spent if spent else None


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """The least squares line through (answers, value)."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points)
    per_answer = rise / spread if spread else 0.0
    first, last = points[0][0], points[-1][0]
    return Slope(
        mean_y + per_answer * (first - mean_x), mean_y + per_answer * (last - mean_x), per_answer
    )
