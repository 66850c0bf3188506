"""What the links and the computing alone would take: the bounds that figures are compared with.

L = Σ over links (delay + bytes / uplink rate) + Σ over hops (time of a step): nothing for software.
"""

from dataclasses import dataclass

from benchmarks.wan.delay import Conditions
from benchmarks.wan.engines import EngineChoice
from protocol.tensor import WireDtype

__all__ = ["Formula"]

TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class Formula:
    """Of one route of `hops` under some conditions. Headers of any kind are not counted."""

    choice: EngineChoice
    conditions: Conditions
    wire: WireDtype
    hops: int = 3

    @property
    def row_bytes(self) -> int:
        return self.wire.row_bytes(self.choice.shape.hidden_size)

    @property
    def compute_s(self) -> float:
        """Of one decode step, at all hops."""
        return self.hops * self.choice.shape.curve.seconds(1)

    @property
    def ring_s(self) -> float:
        """Open route, the last hop feeding hop 0: one link a hop, the last carries a token."""
        return self._links(self.hops - 1, 1) + self.compute_s

    @property
    def sealed_s(self) -> float:
        """The head embeds and samples: one link more than hops, all of them carry rows."""
        return self._links(self.hops + 1, 0) + self.compute_s

    @property
    def star_s(self) -> float:
        """The client goes to every hop and back."""
        return self._links(2 * self.hops, 0) + self.compute_s

    def prompt_s(self, tokens: int, *, links: int) -> float:
        """Byte bound of the first token: all rows through one uplink, and every link's delay."""
        return self.conditions.wire_s(tokens * self.row_bytes) + links * self._delay_s

    @property
    def _delay_s(self) -> float:
        return self.conditions.delay_ms / 1000

    def _links(self, of_rows: int, of_tokens: int) -> float:
        rows_s = of_rows * self.conditions.wire_s(self.row_bytes)
        tokens_s = of_tokens * self.conditions.wire_s(TOKEN_BYTES)
        return (of_rows + of_tokens) * self._delay_s + rows_s + tokens_s
