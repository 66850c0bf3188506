"""Who takes which of several places, at the least cost of all. Pure.

Places are filled one after another, each along the cheapest chain of moves: the newcomer takes
somebody, whose place takes somebody else, until one is free. After every place the choice is the
cheapest there is, which is what makes the next chain's search simple: no chain gains by going round
in a circle.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["assign"]

K = TypeVar("K", bound=Hashable)


def assign(costs: Sequence[Mapping[K, int]]) -> list[K | None]:
    """For each place one key of its mapping, no key twice, at the least cost of all.

    Where they cannot all be filled, the fewest are None. The same input gives the same answer.

    Of n places the others can take n - 1 keys at most, so each needs only its n cheapest.
    """
    narrowed = [
        dict(sorted(place.items(), key=lambda item: item[1])[: len(costs)]) for place in costs
    ]
    firsts = [next(iter(place), None) for place in narrowed]
    if None not in firsts and len(set(firsts)) == len(firsts):
        return firsts
    work = _Assignment(narrowed)
    for place in range(len(narrowed)):
        work.fill(place)
    return [work.taken.get(place) for place in range(len(narrowed))]


@dataclass(slots=True)
class _Assignment(Generic[K]):
    """Places filled so far."""

    costs: Sequence[Mapping[K, int]]
    taken: dict[int, K] = field(default_factory=dict)
    holder: dict[K, int] = field(default_factory=dict)

    def fill(self, place: int) -> None:
        """Find somebody for one more place; others may move."""
        spent, came = self._spread(place)
        ends = [
            (spent[at] + cost, order, at, key)
            for order, at in enumerate(spent)
            for key, cost in self.costs[at].items()
            if key not in self.holder
        ]
        if not ends:
            return  # whatever moves, one place stays empty
        _, _, at, key = min(ends, key=lambda end: end[:2])
        while True:
            self.holder[key] = at
            given_up = self.taken.get(at)
            self.taken[at] = key
            if at == place:
                return
            assert given_up is not None
            at, key = came[at], given_up

    def _spread(self, place: int) -> tuple[dict[int, int], dict[int, int]]:
        """What it costs to leave each reachable place without anybody, and who took from it."""
        spent, came = {place: 0}, {place: place}
        waiting = [place]
        while waiting:
            at = waiting.pop(0)
            for key, cost in self.costs[at].items():
                other = self.holder.get(key)
                if other is None or other == at:
                    continue
                total = spent[at] + cost - self.costs[other][key]
                if other not in spent or total < spent[other]:
                    spent[other], came[other] = total, at
                    if other not in waiting:
                        waiting.append(other)
        return spent, came
