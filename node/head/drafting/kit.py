"""What a head drafts with, for all answers of one model."""

from dataclasses import dataclass, field

from node.engine.runner import EngineRunner
from node.head.drafting.acceptance import Acceptance
from node.head.drafting.base import Drafter
from node.head.drafting.lookup import PromptLookup
from node.head.drafting.model import DraftModel
from node.head.drafting.pace import Pace
from protocol.sampling import SamplingParameters

__all__ = ["NO_DRAFTING", "DraftingKit"]


@dataclass(frozen=True, slots=True)
class DraftingKit:
    """`looks_up`: copy from the prompt and the answer. `model`: a small model, held whole here."""

    looks_up: bool = True
    model: EngineRunner | None = None
    acceptance: Acceptance = field(default_factory=Acceptance)
    """What was learned from all answers so far."""

    def __bool__(self) -> bool:
        """Whether there is anything to draft with."""
        return self.looks_up or self.model is not None

    def pace(self, hop_count: int) -> Pace:
        """How fast one answer goes over a route of so many hops."""
        return Pace(hop_count=hop_count, acceptance=self.acceptance)

    def drafters(
        self, sampling: SamplingParameters, *, capacity_tokens: int, vocabulary_size: int
    ) -> list[Drafter]:
        """Those of one answer, the cheapest first."""
        drafters: list[Drafter] = [PromptLookup()] if self.looks_up else []
        if self.model is not None:
            drafters.append(
                DraftModel(
                    self.model,
                    sampling=sampling,
                    capacity_tokens=capacity_tokens,
                    vocabulary_size=vocabulary_size,
                )
            )
        return drafters


NO_DRAFTING = DraftingKit(looks_up=False)
"""One token a trip, or a loop."""
