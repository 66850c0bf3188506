"""Who is to blame for links that do not match: a graph of who contradicts whom. Pure.

One mismatch shows that one of two neighbours lies, and not which. Routes are drawn by the
marketplace, so a liar meets many neighbours and contradicts them all, while each of these
contradicts liars only. Who has several neighbours against it that contradict nobody else is to
blame; where nobody has, a person must look. This proposes; it moves no money.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

__all__ = ["NEIGHBOURS_MIN", "Blame", "blamed", "find_blame"]

NEIGHBOURS_MIN = 3
"""Distinct parties that contradict one and otherwise nobody. Two accusers are a cheap pair to hire;
three have each to be drawn beside their victim, and each parks money of its own."""


@dataclass(frozen=True, slots=True)
class Blame:
    """One party that the mismatches in question speak against."""

    party: str
    accusers: tuple[str, ...]
    """Parties that contradict it and otherwise only others to blame."""

    @property
    def reason(self) -> str:
        return (
            f"{self.party} contradicts {len(self.accusers)} distinct neighbours that nobody else"
            " contradicts"
        )


def find_blame(links: Iterable[tuple[str, str]]) -> tuple[Blame, ...]:
    """Parties to blame over all links in question, the clearest first. Each pair: its two ends.

    A party is whoever answers for a machine: its provider's account where that is known, else its
    PeerId. Takes the one with most neighbours of its own against it, and looks again without what
    that explains. A link within one party speaks against nobody.
    """
    against: dict[str, set[str]] = defaultdict(set)
    for one, other in links:
        if one != other:
            against[one].add(other)
            against[other].add(one)
    found: list[Blame] = []
    while clearest := _clearest(against):
        found.append(clearest)
        for accuser in against.pop(clearest.party):
            against[accuser].discard(clearest.party)
    return tuple(found)


def blamed(blames: Iterable[Blame], ends: tuple[str, str]) -> Blame | None:
    """Which of a link's two ends is to blame; None where neither is, or both are."""
    to_blame = [each for each in blames if each.party in ends]
    return to_blame[0] if len(to_blame) == 1 else None


def _clearest(against: Mapping[str, Set[str]]) -> Blame | None:
    """The one with the most accusers of its own, if they are enough; names break ties."""
    candidates = [Blame(party, _own_accusers(party, against)) for party in sorted(against)]
    best = max(candidates, key=lambda each: len(each.accusers), default=None)
    return best if best and len(best.accusers) >= NEIGHBOURS_MIN else None


def _own_accusers(party: str, against: Mapping[str, Set[str]]) -> tuple[str, ...]:
    return tuple(sorted(other for other in against[party] if against[other] == {party}))
