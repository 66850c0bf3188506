"""What became of all disputes of a run: who was blamed, of which pairs nothing can be said, and
where the parked money went."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger.rulings import Decision
from protocol.money import Nanos

__all__ = ["Judgement"]

Pair = frozenset[str]
"""Two parties that contradicted one another, however often."""


@dataclass(slots=True)
class Judgement:
    """Rulings of one run. Money in nanos."""

    blamed: frozenset[str]
    disputes: int = 0
    proposed: int = 0
    """Ruled as the graph of blame proposed; the others by hand, and the payer paid both ends."""
    decided: set[Pair] = field(default_factory=set)
    """Pairs of whom exactly one was blamed."""
    both: set[Pair] = field(default_factory=set)
    """Pairs of whom both were blamed, by others: a person says who lied of this link."""
    undecidable: set[Pair] = field(default_factory=set)
    """Pairs of whom neither was."""
    parked_nanos: Nanos = 0
    returned_nanos: Nanos = 0
    """To buyers: what the blamed were to get."""
    cleared_nanos: Nanos = 0
    """To those whom the blamed had contradicted."""
    unclear_nanos: Nanos = 0
    """To both ends where nothing was proposed: the payer had signed for both."""

    def add(
        self,
        pairs: Sequence[tuple[str, str]],
        decisions: Sequence[Decision],
        *,
        is_proposed: bool,
    ) -> None:
        """Count one dispute and its ruling."""
        self.disputes += 1
        self.proposed += is_proposed
        for pair in pairs:
            kinds = (self.undecidable, self.decided, self.both)
            kinds[len(self.blamed.intersection(pair))].add(frozenset(pair))
        for decision in decisions:
            kept, returned = decision.to_provider_nanos, decision.to_buyer_nanos
            self.parked_nanos += kept + returned
            self.returned_nanos += returned
            if is_proposed:
                self.cleared_nanos += kept
            else:
                self.unclear_nanos += kept
