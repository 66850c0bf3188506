"""Who holds which layers: for a machine that joins the pool, and for a house full of machines.

Pure: everybody who knows the same facts comes to the same plan, so no one has to be asked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from protocol.errors import LocalProtocolError
from protocol.route import Span

__all__ = ["Machine", "choose_span", "coverage_of", "place"]

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


def coverage_of(layers: int, spans: Iterable[Span]) -> list[int]:
    """How many of `spans` hold each layer of [0, layers)."""
    steps = [0] * (layers + 1)
    for span in spans:
        if span.start < layers:
            steps[span.start] += 1
            steps[min(span.end, layers)] -= 1
    coverage, depth = [], 0
    for step in steps[:layers]:
        depth += step
        coverage.append(depth)
    return coverage


def choose_span(layers: int, coverage: Sequence[int], layers_max: int) -> Span:
    """The scarcest window of min(layers_max, layers) layers, for one more machine.

    Scarcest: its coverages, least first, are the smallest, so that one layer nobody holds weighs
    more than any number that few hold. Of equals the lowest start: machines that join one after
    another then pack from layer 0, and ceil(layers / layers_max) of them tile the model.
    """
    if layers_max <= 0 or len(coverage) != layers:
        raise LocalProtocolError("A span needs at least one layer and the coverage of every layer.")
    size = min(layers_max, layers)
    start = min(
        range(layers - size + 1), key=lambda first: (sorted(coverage[first : first + size]), first)
    )
    return Span(start, start + size)


def place(layers: int, machines: Sequence[Machine]) -> list[Span] | None:
    """One span per machine, in the machines' order; None if all together cannot hold the model.

    The fewest machines that hold the model are used: every hop more is a trip more for each token,
    so a model that fits one machine stays whole on the fastest that holds it. Of as many machines
    those are taken whose slowest hop is fastest, and within that the fastest are filled first. A
    machine that is not needed gets an empty span.
    """
    able = [i for i, m in enumerate(machines) if m.layers_max > 0 and m.token_layers_per_s > 0]
    speeds = {i: Fraction(machines[i].token_layers_per_s) for i in able}
    limits = {i: min(machines[i].layers_max, layers) for i in able}
    count = _hops_needed(layers, sorted(limits.values(), reverse=True))
    if count is None:
        return None
    slowest_hop = _fastest_bottleneck(layers, count, limits, speeds)
    capacities = _capacities(slowest_hop, limits, speeds)
    # of machines that can carry as much, the faster, then the first
    chosen = sorted(capacities, key=lambda i: (-capacities[i], -speeds[i], i))[:count]
    shares = _shares(layers, {i: capacities[i] for i in chosen}, speeds)
    spans, position = [], 0
    for index in range(len(machines)):
        share = shares.get(index, 0)
        spans.append(Span(position, position + share) if share else NOTHING)
        position += share
    return spans


def _hops_needed(layers: int, limits: Sequence[int]) -> int | None:
    """How many of the largest limits add up to `layers`."""
    held = 0
    for count, limit in enumerate(limits, start=1):
        held += limit
        if held >= layers:
            return count
    return None


def _capacities(
    hop_s: Fraction, limits: dict[int, int], speeds: dict[int, Fraction]
) -> dict[int, int]:
    """Layers each machine can run within `hop_s` a token."""
    return {i: min(limit, int(hop_s * speeds[i])) for i, limit in limits.items()}


def _fastest_bottleneck(
    layers: int, count: int, limits: dict[int, int], speeds: dict[int, Fraction]
) -> Fraction:
    """The least time of the slowest hop with which `count` machines hold the model, exactly."""
    times = sorted({Fraction(n) / speeds[i] for i in limits for n in range(1, limits[i] + 1)})
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        capacities = sorted(_capacities(times[middle], limits, speeds).values(), reverse=True)
        if sum(capacities[:count]) >= layers:
            high = middle
        else:
            low = middle + 1
    return times[low]


def _shares(layers: int, capacities: dict[int, int], speeds: dict[int, Fraction]) -> dict[int, int]:
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
