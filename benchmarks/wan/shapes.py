"""Models as the network sees them, and how fast a machine runs its third of one."""

from dataclasses import dataclass
from typing import Final

__all__ = ["CONTEXT_TOKENS", "SHAPES", "VOCABULARY", "Curve", "Shape"]

VOCABULARY: Final = 32_000
CONTEXT_TOKENS: Final = 8192


@dataclass(frozen=True, slots=True)
class Curve:
    """How long a batch takes: reading the weights once, and computing for each row."""

    step_ms: float
    row_ms: float

    def seconds(self, rows: int) -> float:
        return (self.step_ms + self.row_ms * rows) / 1000 if rows else 0.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A model as the network sees it, and one machine's share of it in three."""

    name: str
    hidden_size: int
    layers: int
    curve: Curve


SHAPES: Final = {
    shape.name: shape
    for shape in (
        # 16 GB in bf16 at 0.97 TB/s; 5.3 GFLOP a row and hop at 107 TFLOP/s
        Shape("8B", 4096, 32, Curve(5.45, 0.05)),
        # 35 GB in 4 bit at 0.9 TB/s; 47 GFLOP a row and hop at 117 TFLOP/s
        Shape("70B", 8192, 80, Curve(12.9, 0.4)),
    )
}
