"""Who is to blame for links that do not match: a graph of who contradicts whom. Pure.

One mismatch shows that one of two neighbours lies, and not which. Routes are drawn by the
marketplace, so a liar meets many neighbours and contradicts them all, while each of these
contradicts liars only. Who has many neighbours against it, of whom each has few others to
contradict, is to blame; where nobody has, a person must look. This proposes; it moves no money.

Early, an honest party that has met three liars looks like a liar that has met three honest ones:
so few accusers say nothing. Late, each honest party has met several liars, and contradicts none of
them alone: so an accuser counts for its share, a third against each of three. An honest one, whose
accusers are liars with accusers of their own, comes to next to nothing.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["NEIGHBOURS_MIN", "OUTNUMBERED_MIN", "Blame", "blamed", "find_blame"]

NEIGHBOURS_MIN = 5
"""Distinct parties that contradict one. Where three in ten lie, three liars now and then meet one
honest party before they meet others. Who wants to frame somebody must bring as many accounts, each
drawn beside him, and each parks money of its own."""
OUTNUMBERED_MIN = 2
"""How many accusers must fall to one, shared among all that they contradict: so nothing is said
where liars are a third of all or more, rather than something false."""

_WHOLE = 720_720
"""One accuser, in parts: divides by all numbers to 16; sums of integers know no order."""


@dataclass(frozen=True, slots=True)
class Blame:
    """One party that the mismatches in question speak against."""

    party: str
    accusers: tuple[str, ...]
    """Parties that contradict it, but for those that were blamed before it."""

    @property
    def reason(self) -> str:
        return (
            f"{self.party} contradicts {len(self.accusers)} distinct neighbours, who contradict"
            " few others"
        )


def find_blame(links: Iterable[tuple[str, str]]) -> tuple[Blame, ...]:
    """Parties to blame over all links in question, the clearest first. Each pair: its two ends.

    A party is whoever answers for a machine: its provider's account where that is known, else its
    PeerId. Takes the one with most against it, and looks again without what that explains. A link
    within one party speaks against nobody.
    """
    against: dict[str, set[str]] = defaultdict(set)
    for one, other in links:
        if one != other:
            against[one].add(other)
            against[other].add(one)
    weight = {
        party: sum(_share(against[other]) for other in others) for party, others in against.items()
    }
    found: list[Blame] = []
    while clearest := _clearest(against, weight):
        found.append(clearest)
        _explain(clearest.party, against, weight)
    return tuple(found)


def blamed(blames: Iterable[Blame], ends: tuple[str, str]) -> Blame | None:
    """Which of a link's two ends is to blame; None where neither is, or both are."""
    to_blame = [each for each in blames if each.party in ends]
    return to_blame[0] if len(to_blame) == 1 else None


def _clearest(against: dict[str, set[str]], weight: dict[str, int]) -> Blame | None:
    """The one with most against it, if that is enough; names break ties."""
    candidates = sorted(p for p, others in against.items() if len(others) >= NEIGHBOURS_MIN)
    best = max(candidates, key=lambda party: weight[party], default=None)
    if best is None or weight[best] < OUTNUMBERED_MIN * _WHOLE:
        return None
    return Blame(best, tuple(sorted(against[best])))


def _explain(party: str, against: dict[str, set[str]], weight: dict[str, int]) -> None:
    """Take `party` and its contradictions away; what its accusers have left weighs more."""
    accusers = against.pop(party)
    for accuser in accusers:
        others = against[accuser]
        weight[accuser] -= _share(accusers)
        before = _share(others)
        others.discard(party)
        for other in others:
            weight[other] += _share(others) - before


def _share(others: set[str]) -> int:
    """What one that contradicts `others` counts against each of them."""
    return _WHOLE // len(others)
