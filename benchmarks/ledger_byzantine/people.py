"""Who takes part, and how those cheat who do."""

import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from protocol.identity import KeyPair

__all__ = [
    "LINK_LIARS",
    "STAGES",
    "Buyer",
    "PayerRole",
    "Provider",
    "ProviderRole",
    "make_people",
]

STAGES = 4
"""Two that lie together have an honest neighbour on either side."""
PROVIDERS_PER_STAGE = 15
BUYERS = 40


class PayerRole(StrEnum):
    """How a buyer's head behaves."""

    HONEST = "honest"
    OVERCLAIM = "over-claims"
    """Signs for more than was metered, so that the hop would countersign what is not so."""
    UNDERPAY = "underpays"
    """Signs for half of what was metered."""
    REPLAY = "replays"
    """Sends its first receipt again and again."""
    STALL = "stalls"
    """Takes output on credit and signs no more; says nothing."""
    VANISH = "vanishes"
    EQUIVOCATE = "equivocates"
    """Signs two receipts of one sequence."""
    MISCOUNT = "miscounts its first link"
    """Signs for its first hop fewer bytes than went to it."""
    CARELESS = "signs anything"
    """Compares no links: the accomplice of a hop that lies. An honest head never signs two ends
    that differ, so without it no lie about a link reaches a settlement."""


class ProviderRole(StrEnum):
    """How a provider's machine behaves."""

    HONEST = "honest"
    OVERCLAIM = "over-claims"
    """Meters twice the work."""
    REPLAY = "replays"
    """Hands everything in several times, the newest first."""
    WITHHOLD = "withholds"
    """Meters on, but sends nothing onward."""
    STALL = "stalls"
    BACKDATE = "back-dates"
    """Hands in after the lease's time is over."""
    LIE = "lies of its link"
    """Meters another output than it sent, and countersigns whatever it is sent."""
    UNDER_RECEIVE = "under-reports received"
    """Meters half of the bytes that came in."""
    OVER_SEND = "over-reports sent"
    """Meters twice the bytes that went out."""
    PAIR = "agrees a lie with its neighbour"
    """With another of its kind beside it, both tell twice the bytes, in and out."""


@dataclass(frozen=True, slots=True)
class Buyer:
    name: str
    role: PayerRole


@dataclass(frozen=True, slots=True)
class Provider:
    key: KeyPair
    stage: int
    role: ProviderRole

    @property
    def is_honest(self) -> bool:
        return self.role is ProviderRole.HONEST


LINK_LIARS = frozenset(
    (ProviderRole.LIE, ProviderRole.UNDER_RECEIVE, ProviderRole.OVER_SEND, ProviderRole.PAIR)
)
"""Those that a comparison of links can catch, and blame."""

_CHEATING_BUYERS = {
    PayerRole.OVERCLAIM: 1, PayerRole.UNDERPAY: 1, PayerRole.REPLAY: 1, PayerRole.STALL: 1,
    PayerRole.VANISH: 1, PayerRole.MISCOUNT: 1, PayerRole.EQUIVOCATE: 1, PayerRole.CARELESS: 5,
}  # fmt: skip
"""Of 40, three in ten."""
_CHEATING_PROVIDERS: dict[ProviderRole, tuple[int, ...]] = {
    ProviderRole.LIE: (0, 1, 2),
    ProviderRole.UNDER_RECEIVE: (1, 2, 3),
    ProviderRole.OVER_SEND: (0, 1, 2),
    ProviderRole.PAIR: (1, 1, 2, 2),
    ProviderRole.OVERCLAIM: (3,),
    ProviderRole.REPLAY: (0,),
    ProviderRole.WITHHOLD: (3,),
    ProviderRole.STALL: (0,),
    ProviderRole.BACKDATE: (3,),
}
"""At which stages: 18 of 60. A lie about the head's own link shows to nobody but the head."""


def make_people(rng: random.Random) -> tuple[list[Buyer], list[list[Provider]]]:
    """Buyers, and providers by stage; every way to cheat is there."""
    roles = [role for role, count in _CHEATING_BUYERS.items() for _ in range(count)]
    roles += [PayerRole.HONEST] * (BUYERS - len(roles))
    buyers = [Buyer(f"buyer-{number}", role) for number, role in enumerate(roles)]
    cheats = [(stage, role) for role, stages in _CHEATING_PROVIDERS.items() for stage in stages]
    taken = Counter(stage for stage, _ in cheats)
    honest = [
        (stage, ProviderRole.HONEST)
        for stage in range(STAGES)
        for _ in range(PROVIDERS_PER_STAGE - taken[stage])
    ]
    providers = [Provider(KeyPair(rng.randbytes(32)), *each) for each in (*cheats, *honest)]
    return buyers, [[p for p in providers if p.stage == stage] for stage in range(STAGES)]
