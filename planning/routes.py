"""Which spans to string together: exact search for the cheapest route over what is offered.

A dynamic program over layers. `best[p]` is the cheapest way to tile [0, p); a candidate that covers
layer p - 1 either goes on from where it stood at p - 1 or begins there, so one pass over each
candidate's layers decides all: time is the sum of the spans' lengths.

No candidate may stand twice in a route: a hop holds one state per session. The plain program cannot
know that, so a winner that repeats a candidate is branched on, best bound first: the candidate
fills the gap between its two legs, or gives up one side. That is rare, and exact up to
`BRANCHES_MAX`; past it the best route found is given, valid but perhaps not the cheapest.

Costs are integers in a unit of the caller's choice; the same search serves a house at zero prices.
"""

import heapq
import itertools
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from protocol.limits import HOPS_MAX, LAYERS_MAX
from protocol.route import Span

__all__ = ["Candidate", "Leg", "Weights", "find_route", "missing_spans", "route_cost"]

K = TypeVar("K", bound=Hashable)

BRANCHES_MAX = 256
"""Branches over repeated candidates before the best route so far is taken: bounds the time."""


@dataclass(frozen=True, slots=True)
class Candidate(Generic[K]):
    """Somebody who could carry any part of `span`; `key` says who. Costs are not negative."""

    key: K
    span: Span
    layer_cost: int = 0
    """What each layer costs for the work that is planned."""
    hop_cost: int = 0
    """What the hop costs whatever its length: activation bytes, load."""
    latency_s: float = 0.0
    """Added to each token's trip by going through this hop."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What time is worth, in the unit of the costs."""

    hop_penalty: int = 0
    second_penalty: int = 0


@dataclass(frozen=True, slots=True)
class Leg(Generic[K]):
    """The part of a candidate's span that a route uses."""

    candidate: Candidate[K]
    span: Span


def find_route(
    layers: int, candidates: Sequence[Candidate[K]], weights: Weights | None = None
) -> list[Leg[K]] | None:
    """The cheapest legs that tile [0, layers), each candidate at most once; None if none do.

    Equal costs are decided by fewer hops, then by the order of `candidates`: the same input gives
    the same route everywhere. Where the cheapest has more than HOPS_MAX hops, the one with the
    fewest hops is given instead (None if even that is too long).
    """
    weights = weights or Weights()
    cuts = [
        _Cut(index, Span(c.span.start, min(c.span.end, layers)))
        for index, c in enumerate(candidates)
        if c.span.start < layers and len(c.span) > 0
    ]
    fixed = [_fixed_cost(candidate, weights) for candidate in candidates]
    search = _Search(layers, [c.layer_cost for c in candidates], fixed)
    legs = search.run(cuts)
    if legs is not None and len(legs) > HOPS_MAX:
        search = _Search(layers, [0] * len(candidates), [1] * len(candidates))
        legs = search.run(cuts)
    if legs is None or len(legs) > HOPS_MAX:
        return None
    return [Leg(candidates[leg.index], leg.span) for leg in legs]


def route_cost(legs: Iterable[Leg[K]], weights: Weights | None = None) -> int:
    """What the search minimises."""
    weights = weights or Weights()
    return sum(
        _fixed_cost(leg.candidate, weights) + len(leg.span) * leg.candidate.layer_cost
        for leg in legs
    )


def missing_spans(layers: int, spans: Iterable[Span]) -> list[Span]:
    """The parts of [0, layers) that none of `spans` covers, in order, as long as can be."""
    missing, position = [], 0
    for span in sorted(s for s in spans if len(s)):
        if span.start >= layers:
            break
        if span.start > position:
            missing.append(Span(position, span.start))
        position = max(position, span.end)
    if position < layers:
        missing.append(Span(position, layers))
    return missing


def _fixed_cost(candidate: Candidate[K], weights: Weights) -> int:
    latency = round(candidate.latency_s * weights.second_penalty)
    return candidate.hop_cost + weights.hop_penalty + latency


@dataclass(frozen=True, slots=True)
class _Cut:
    """A candidate by its index, and the part of its span that a branch still allows (or a leg)."""

    index: int
    span: Span


class _Search:
    """One search's numbers: per candidate the cost of a layer and of a hop."""

    def __init__(self, layers: int, layer_costs: list[int], fixed_costs: list[int]) -> None:
        self.layers = layers
        self.layer_costs = layer_costs
        self.fixed_costs = fixed_costs

    def run(self, cuts: list[_Cut]) -> list[_Cut] | None:
        """Best first over branches; each branch's relaxed optimum bounds all below it."""
        order = itertools.count()
        root = self._relaxed(cuts)
        if root is None:
            return None
        queue = [(self._cost(root), next(order), root, cuts)]
        found = self._merged(root)
        for _ in range(BRANCHES_MAX):
            if not queue:
                break
            bound, _, legs, allowed = heapq.heappop(queue)
            repeat = _repeated(legs)
            if repeat is None:
                return legs if bound < self._cost(found) else found
            if bound >= self._cost(found):
                break
            for branch in _branches(allowed, *repeat):
                relaxed = self._relaxed(branch)
                if relaxed is None:
                    continue
                heapq.heappush(queue, (self._cost(relaxed), next(order), relaxed, branch))
                found = min(found, self._merged(relaxed), key=self._cost)
        return found

    def _relaxed(self, cuts: list[_Cut]) -> list[_Cut] | None:
        """The cheapest tiling that may repeat a candidate: the dynamic program itself.

        A state is (cost, hops); a running cut also remembers where its leg began.
        """
        starting: list[list[_Cut]] = [[] for _ in range(self.layers)]
        for cut in cuts:
            starting[cut.span.start].append(cut)
        best: list[tuple[int, int]] = [(0, 0)]
        came: list[_Cut | None] = [None]
        running: list[tuple[_Cut, int, int, int]] = []
        for position in range(self.layers):
            reached, hops = best[position]
            running = [state for state in running if state[0].span.end > position]
            running += [(cut, -1, 0, position) for cut in starting[position]]
            leader: tuple[int, int, int, int] | None = None
            for slot, (cut, gone, gone_hops, gone_begin) in enumerate(running):
                fresh = reached + self.fixed_costs[cut.index]
                if gone < 0 or (fresh, hops + 1) < (gone, gone_hops):
                    state = (fresh, hops + 1, position)
                else:
                    state = (gone, gone_hops, gone_begin)
                cost, cut_hops, begin = state[0] + self.layer_costs[cut.index], *state[1:]
                running[slot] = (cut, cost, cut_hops, begin)
                rank = (cost, cut_hops, cut.index, slot)
                leader = rank if leader is None else min(leader, rank)
            if leader is None:
                return None
            cut, cost, cut_hops, begin = running[leader[3]]
            best.append((cost, cut_hops))
            came.append(_Cut(cut.index, Span(begin, position + 1)))
        return _walk_back(came)

    def _cost(self, legs: list[_Cut]) -> tuple[int, int]:
        cost = sum(
            self.fixed_costs[leg.index] + len(leg.span) * self.layer_costs[leg.index]
            for leg in legs
        )
        return cost, len(legs)

    def _merged(self, legs: list[_Cut]) -> list[_Cut]:
        """A valid route from a relaxed one: a repeated candidate fills the gap between its legs."""
        merged: list[_Cut] = []
        for leg in legs:
            first = next((i for i, m in enumerate(merged) if m.index == leg.index), None)
            if first is None:
                merged.append(leg)
            else:
                merged[first:] = [_Cut(leg.index, Span(merged[first].span.start, leg.span.end))]
        return merged


def _walk_back(came: list[_Cut | None]) -> list[_Cut]:
    legs: list[_Cut] = []
    leg = came[-1]
    while leg is not None:
        legs.append(leg)
        leg = came[leg.span.start]
    return legs[::-1]


def _repeated(legs: list[_Cut]) -> tuple[int, Span] | None:
    """The first candidate that stands twice, and the gap between its two legs."""
    last_end: dict[int, int] = {}
    for leg in legs:
        if leg.index in last_end:
            return leg.index, Span(last_end[leg.index], leg.span.start)
        last_end[leg.index] = leg.span.end
    return None


def _branches(cuts: list[_Cut], index: int, gap: Span) -> list[list[_Cut]]:
    """Three cases that together hold every valid route: `index` ends before the gap's end, begins
    after the gap's start, or fills the gap (so that nobody else may stand there).
    """
    before = Span(0, gap.end - 1)
    after = _from(gap.start + 1)
    ends_early = [c for cut in cuts for c in _clip(cut, before if cut.index == index else _ALL)]
    begins_late = [c for cut in cuts for c in _clip(cut, after if cut.index == index else _ALL)]
    fills = [
        c
        for cut in cuts
        for part in ((_ALL,) if cut.index == index else (Span(0, gap.start), _from(gap.end)))
        for c in _clip(cut, part)
    ]
    return [ends_early, begins_late, fills]


def _from(start: int) -> Span:
    return Span(start, _ALL.end)


_ALL = Span(0, LAYERS_MAX)


def _clip(cut: _Cut, window: Span) -> list[_Cut]:
    start, end = max(cut.span.start, window.start), min(cut.span.end, window.end)
    return [replace(cut, span=Span(start, end))] if start < end else []
