"""A house full of machines: who holds which layers of a model.

The ends weigh too: hop 0 holds the embedding and the last hop the final norm and LM head, and with
a large vocabulary one of them is as heavy as several layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from protocol.route import Span

__all__ = ["NOTHING", "Machine", "place"]

NOTHING = Span(0, 0)
"""The span of a machine that is not needed."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine can carry of the model at hand."""

    name: str
    layers_max: int
    """Layers that fit its memory, with the KV they need."""
    token_layers_per_s: float
    """Measured; only its ratio to the other machines' matters."""
    layers_beside_end: int | None = None
    """Layers that fit with one of the ends; None: the ends weigh nothing."""
    layers_with_ends: int | None = None
    """Layers that fit with both."""

    def limit(self, layers: int, ends: int) -> int:
        """Layers of a model of `layers` that fit here beside so many (0 to 2) ends."""
        limits = (self.layers_max, self.layers_beside_end, self.layers_with_ends)
        limit = limits[ends]
        return min(self.layers_max if limit is None else limit, layers)

    @property
    def is_able(self) -> bool:
        return self.layers_max > 0 and self.token_layers_per_s > 0


def place(
    layers: int,
    machines: Sequence[Machine],
    *,
    spread: bool = False,
    starts: bool = True,
    finishes: bool = True,
) -> list[Span] | None:
    """One span per machine, in the machines' order; None if all together cannot hold the layers.

    The fewest machines that hold the model are used: every hop more is a trip more for each token,
    so a model that fits one machine stays whole on the fastest that holds it. Of as many machines
    those are taken whose slowest hop is fastest, and within that the fastest are filled first. A
    machine that is not needed gets an empty span. With `spread` every machine that can hold a layer
    gets one, as long as there are layers.

    `starts`, `finishes`: whether the first hop holds the embedding and the last the head; without
    both it is a gap in a model that is filled.
    """
    house = _House(layers, machines, int(starts), int(finishes))
    most = min(layers, len(house.able))
    counts = range(most, 0, -1) if spread else range(1, most + 1)
    for count in counts:
        if house.choose(count, None) is not None:
            return house.spans(count)
    return None


@dataclass(frozen=True, slots=True)
class _Choice:
    """Machines that carry the layers: which is first and last, and what each can take."""

    first: int
    last: int
    capacities: Mapping[int, int]

    @property
    def chain(self) -> list[int]:
        """The machines in the order of their spans."""
        between = [i for i in sorted(self.capacities) if i not in (self.first, self.last)]
        return list(dict.fromkeys((self.first, *between, self.last)))


class _House:
    """The numbers of one placement; `starts` and `finishes` count ends, 0 or 1."""

    def __init__(
        self, layers: int, machines: Sequence[Machine], starts: int, finishes: int
    ) -> None:
        self.layers = layers
        self.machines = machines
        self.starts = starts
        self.finishes = finishes
        self.able = [i for i, machine in enumerate(machines) if machine.is_able]
        self.speeds = {i: Fraction(machines[i].token_layers_per_s) for i in self.able}

    def spans(self, count: int) -> list[Span]:
        """The best share of `count` machines, which are known to hold the layers."""
        choice = self.choose(count, self._fastest_bottleneck(count))
        assert choice is not None
        shares = _shares(self.layers, choice.capacities, self.speeds)
        spans, position = [NOTHING] * len(self.machines), 0
        for index in choice.chain:
            spans[index] = Span(position, position + shares[index])
            position += shares[index]
        return spans

    def choose(self, count: int, hop_s: Fraction | None) -> _Choice | None:
        """`count` machines that hold the layers, none slower than `hop_s` a token (None: any)."""
        if count == 1:
            return self._choose_one(hop_s)
        middle = self._capacities(0, hop_s)
        # those that carry most first; of these the faster, then the first
        ranked = sorted(middle, key=lambda i: (-middle[i], -self.speeds[i], i))
        if len(ranked) < count:
            return None
        first_caps = self._capacities(self.starts, hop_s)
        last_caps = self._capacities(self.finishes, hop_s)
        sums = _Sums([middle[i] for i in ranked])
        # of equal sums the machines that rank highest, and of these the first and the last
        best = min(
            (
                (
                    -first_caps[first] - last_caps[last] - sums.without(a, b, count - 2),
                    max(a, b, count - 1), first, -last, last,
                )
                for a, first in enumerate(ranked)
                for b, last in enumerate(ranked)
                if a != b and first in first_caps and last in last_caps
            ),
            default=None,
        )  # fmt: skip
        if best is None or -best[0] < self.layers:
            return None
        _, _, first, _, last = best
        others = [i for i in ranked if i not in (first, last)][: count - 2]
        capacities = {first: first_caps[first], last: last_caps[last]}
        return _Choice(first, last, capacities | {i: middle[i] for i in others})

    def _choose_one(self, hop_s: Fraction | None) -> _Choice | None:
        capacities = self._capacities(self.starts + self.finishes, hop_s)
        whole = [i for i, capacity in capacities.items() if capacity >= self.layers]
        if not whole:
            return None
        index = min(whole, key=lambda i: (-self.speeds[i], i))
        return _Choice(index, index, {index: capacities[index]})

    def _capacities(self, ends: int, hop_s: Fraction | None) -> dict[int, int]:
        """Layers each machine can run beside so many ends within `hop_s` a token, where any."""
        limits = {i: self.machines[i].limit(self.layers, ends) for i in self.able}
        if hop_s is not None:
            limits = {i: min(n, int(hop_s * self.speeds[i])) for i, n in limits.items()}
        return {i: n for i, n in limits.items() if n > 0}

    def _fastest_bottleneck(self, count: int) -> Fraction:
        """The least time of the slowest hop with which `count` machines hold the layers, exactly.

        The ends' own time is not counted: it is small beside a layer's but for huge vocabularies.
        """
        limits = self._capacities(0, None)
        times = sorted(
            {Fraction(n) / self.speeds[i] for i in limits for n in range(1, limits[i] + 1)}
        )
        low, high = 0, len(times) - 1
        while low < high:
            middle = (low + high) // 2
            if self.choose(count, times[middle]) is not None:
                high = middle
            else:
                low = middle + 1
        return times[low]


class _Sums:
    """Sums of the largest of some numbers, which are given largest first."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._totals = [0]
        for number in numbers:
            self._totals.append(self._totals[-1] + number)

    def without(self, a: int, b: int, count: int) -> int:
        """Of the `count` largest that stand neither at index `a` nor at `b`."""
        a, b = sorted((a, b))
        left_out = 0
        for index in (a, b):
            if index < count:
                left_out += self._numbers[index]
                count += 1
        return self._totals[count] - left_out


def _shares(
    layers: int, capacities: Mapping[int, int], speeds: Mapping[int, Fraction]
) -> dict[int, int]:
    """Fill the fastest machines first, up to their capacity: the least time for the whole trip.

    Each keeps at least one layer: with fewer machines the model would not fit.
    """
    shares = dict.fromkeys(capacities, 1)
    left = layers - len(shares)
    for index in sorted(capacities, key=lambda i: (-speeds[i], i)):
        more = min(left, capacities[index] - 1)
        shares[index] += more
        left -= more
    return shares
