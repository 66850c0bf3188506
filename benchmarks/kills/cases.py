"""What happens in each round: a case is a pure function of (seed, index), so it can be repeated."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from protocol.sampling import SamplingParameters

__all__ = ["HOPS", "MANNERS", "NONSENSE", "QUESTIONS", "Case", "Flavour", "Kind", "make_case"]

HOPS = 3
"""Of every route; the packaged model has 8 layers, cut 3, 3, 2."""

ASIDE_SHARE = 0.25
"""Rounds with a second answer beside the one that is aimed at."""

STEP_S = 0.02
"""A fault falls up to this long behind the token it waits for: anywhere in one trip."""


class Kind(StrEnum):
    """What is done to a route in the middle of an answer."""

    NONE = "none"
    KILL = "kill"
    """SIGKILL to one hop."""
    STOP = "stop"
    """SIGSTOP; it wakes up later, a zombie with KV and streams of a session that went on."""
    LINK = "link"
    """Nothing passes between two neighbours, either way; both are well otherwise."""
    ISLAND = "island"
    """Nothing passes to or from one hop."""
    REBIND = "rebind"
    """Every NAT before one hop gives it new ports: nothing should have to be repaired."""
    NONSENSE = "nonsense"
    """A hop sends what no honest hop sends."""
    ENGINE = "engine"
    """A hop's engine dies and comes back without its KV; the hop itself stays."""
    TWO = "two"
    """SIGKILL to two hops at once."""
    AGAIN = "again"
    """SIGKILL to one hop, and to another of the new route while it is repaired."""


class Flavour(StrEnum):
    """How a lane's routes are run."""

    OPEN_FREE = "open-free"
    SEALED_PAID = "sealed-paid"
    OPEN_PAID = "open-paid"

    @property
    def sealed(self) -> bool:
        return self is Flavour.SEALED_PAID

    @property
    def paid(self) -> bool:
        return self is not Flavour.OPEN_FREE


NONSENSE = (
    "noise", "hash", "position", "epoch", "session", "short", "oversized", "swallow", "reset",
)  # fmt: skip
"""What a hop may send instead of its next rows; the forms are in `watching.py`."""

QUESTIONS: tuple[str, ...] = (
    "Explain what a span is and why a model runs in pieces.",
    "Tell me a story about a dragon.",
    "What is a lease and why is it needed?",
    "What is the difference between a hop and a route?",
    "Write a Python function that adds two numbers.",
    "What is a receipt? " + "I would like to know it in all its details, please. " * 12,
    "Tell me about the relay. " + "Take your time and tell me everything about it. " * 40,
)
"""Short ones, one of about 200 tokens, one whose prefill takes more than one chunk."""

_SEEDED = SamplingParameters.from_floats(temperature=0.8, top_p=0.95, seed=11)
_PENALISED = SamplingParameters.from_floats(
    temperature=0.7, frequency_penalty=0.4, presence_penalty=0.2, seed=5
)
MANNERS: tuple[SamplingParameters, ...] = (
    SamplingParameters(temperature_millionths=0), _SEEDED, _PENALISED,
)  # fmt: skip
"""How tokens are drawn: greedy, seeded, and seeded with penalties that count what was drawn."""


@dataclass(frozen=True, slots=True)
class Case:
    """One round. `hop` and `other_hop` are positions on the route; `link` j joins node j - 1 and
    node j, where the head is node -1 and node HOPS."""

    index: int
    kind: Kind
    flavour: Flavour
    hop: int
    other_hop: int
    link: int
    at: float
    """When: this share of the answer's tokens; 0 is before the first."""
    delay_s: float
    """Behind that token."""
    again_s: float
    """AGAIN: between the first hop of the new route that is opened and the second kill."""
    hold_s: float
    """Until what can be undone is undone: SIGCONT, the link carries again."""
    dies: bool
    """STOP: it is killed in the end instead of woken up."""
    nonsense: str
    to_head: bool
    """NONSENSE: on the stream to the head instead of the link onward."""
    question: int
    manner: int
    tenant: str
    """API key: the same one finds kept prefixes again."""
    aside: int | None
    """Question of a second answer that runs beside it."""


def make_case(seed: int, index: int, kinds: Sequence[Kind], flavours: Sequence[Flavour]) -> Case:
    """The same arguments give the same case: kinds, hops and flavours in turn, the rest at random.

    Each kind meets each hop and each flavour equally often.
    """
    rng = Random(f"{seed}/{index}")
    turn, kind_at = divmod(index, len(kinds))
    grid = list(itertools.product(range(HOPS), flavours))
    hop, flavour = grid[(turn + kind_at) % len(grid)]
    return Case(
        index=index,
        kind=kinds[kind_at],
        flavour=flavour,
        hop=hop,
        other_hop=rng.choice([other for other in range(HOPS) if other != hop]),
        link=rng.randrange(HOPS + 1),
        at=0.0 if rng.random() < 0.08 else rng.uniform(0.0, 0.9),
        delay_s=rng.uniform(0.0, STEP_S),
        again_s=rng.choice((0.0, rng.uniform(0.0, 0.05), rng.uniform(0.05, 0.6))),
        hold_s=rng.choice((0.25, 1.5, 4.0)),
        dies=rng.random() < 0.3,
        nonsense=rng.choice(NONSENSE),
        to_head=rng.random() < 0.5,
        question=rng.randrange(len(QUESTIONS)),
        manner=rng.randrange(len(MANNERS)),
        tenant="same" if rng.random() < 0.5 else f"t{index}",
        aside=rng.randrange(len(QUESTIONS)) if rng.random() < ASIDE_SHARE else None,
    )
