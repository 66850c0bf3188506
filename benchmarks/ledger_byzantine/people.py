"""Who takes part, and how those cheat who do."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from protocol.identity import KeyPair

R = TypeVar("R")

__all__ = ["Buyer", "PayerRole", "Provider", "ProviderRole", "make_people"]

CHEATS = 0.3
"""Of buyers, and of providers."""
STAGES = 3
PROVIDERS_PER_STAGE = 12
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
    CARELESS = "signs anything"
    """Compares no links: the accomplice of a hop that lies."""


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
    PAIR = "agrees a lie with its neighbour"
    """With another of its kind beside it, both tell the same false link and twice the bytes."""


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


def make_people(rng: random.Random) -> tuple[list[Buyer], list[list[Provider]]]:
    """Buyers, and providers by stage; each cheat's way in turn, so that all are there."""
    buyers = [
        Buyer(f"buyer-{number}", role)
        for number, role in enumerate(_roles(BUYERS, list(PayerRole)))
    ]
    roles = _roles(STAGES * PROVIDERS_PER_STAGE, list(ProviderRole))
    rng.shuffle(roles)
    providers = [
        Provider(KeyPair(rng.randbytes(32)), index % STAGES, role)
        for index, role in enumerate(roles)
    ]
    return buyers, [[p for p in providers if p.stage == stage] for stage in range(STAGES)]


def _roles(count: int, kinds: Sequence[R]) -> list[R]:
    honest, cheats = kinds[0], kinds[:0:-1]
    cheating = round(count * CHEATS)
    return [cheats[n % len(cheats)] for n in range(cheating)] + [honest] * (count - cheating)
