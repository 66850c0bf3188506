"""What the requests of the cap benchmark say, what they come to, and what they cost."""

from dataclasses import dataclass

from marketplace.pricing import WorkPlan, price_of
from protocol.money import Nanos, Rates
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.marketplace.world import manifest

__all__ = [
    "CASES",
    "FEE_BASIS_POINTS",
    "MODEL",
    "PROMPT",
    "RATES",
    "SPANS",
    "UNDER_COUNTED",
    "Case",
    "price",
]

MODEL = manifest(context_tokens=4096)
SPANS = (Span(0, 4), Span(4, 8), Span(8, 12))
RATES = Rates(2_000_000_000, 6_000_000_000, 1_000_000)
"""Dear, so that the least top-up is not above what a few requests cost."""
FEE_BASIS_POINTS = 500
PROMPT = 100
UNDER_COUNTED = 40


@dataclass(frozen=True)
class Case:
    """What the requests say and what they really come to, in tokens."""

    asked: int | None
    """max_tokens, held whole; None: left out."""
    output: int
    over_counted: tuple[int, int] = (0, 0)
    """The prompt is counted too long by so many, from and to."""

    @property
    def max_tokens(self) -> int:
        return 1024 if self.asked is None else self.asked

    def balance(self, covers: int) -> Nanos:
        """What covers so many requests; the last of them must still find what it has to hold."""
        used = price(PROMPT, self.output)
        if self.asked is None:
            return covers * used
        return (covers - 1) * used + price(PROMPT + self.over_counted[1], self.asked)


CASES = {
    "fixed": Case(50, 50),
    "omitted": Case(None, 300),
    "short": Case(200, 50),
    "wrong-count": Case(50, 50, (10, 60)),
}


def price(prompt: int, output: int) -> Nanos:
    plan = WorkPlan(MODEL.layers, MODEL.hidden_size, prompt, output, WireDtype.BF16)
    return price_of([(span, RATES) for span in SPANS], plan, FEE_BASIS_POINTS)
