"""Route search against brute force over every tiling."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from planning.routes import Candidate, Leg, Weights, find_route, missing_spans, route_cost
from protocol.limits import HOPS_MAX
from protocol.route import Span


def every_route(layers, candidates, start=0, used=frozenset()):
    if start == layers:
        yield []
        return
    for index, candidate in enumerate(candidates):
        if index in used or not candidate.span.start <= start < candidate.span.end:
            continue
        for end in range(start + 1, min(candidate.span.end, layers) + 1):
            leg = Leg(candidate, Span(start, end))
            for rest in every_route(layers, candidates, end, used | {index}):
                yield [leg, *rest]


@st.composite
def problems(draw):
    layers = draw(st.integers(1, 5))
    candidates = []
    for index in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, layers))
        end = draw(st.integers(start, layers + 1))
        candidates.append(
            Candidate(
                key=index,
                span=Span(start, end),
                layer_cost=draw(st.integers(0, 4)),
                hop_cost=draw(st.integers(0, 2)),
                latency_s=draw(st.sampled_from([0.0, 0.5])),
            )
        )
    weights = Weights(hop_penalty=draw(st.integers(0, 2)), second_penalty=draw(st.integers(0, 2)))
    return layers, candidates, weights


@given(problems())
def test_route_is_the_cheapest_of_all_routes(problem):
    layers, candidates, weights = problem
    route = find_route(layers, candidates, weights)
    costs = [(route_cost(legs, weights), len(legs)) for legs in every_route(layers, candidates)]
    if route is None:
        assert not costs
        return
    assert (route_cost(route, weights), len(route)) == min(costs)


@given(problems())
def test_route_tiles_the_model_with_each_candidate_once(problem):
    layers, candidates, weights = problem
    route = find_route(layers, candidates, weights)
    if route is None:
        assert missing_spans(layers, [c.span for c in candidates])
        return
    position = 0
    for leg in route:
        assert leg.span.start == position
        assert leg.candidate.span.contains(leg.span)
        position = leg.span.end
    assert position == layers
    assert len({leg.candidate.key for leg in route}) == len(route)


def test_a_cheaper_middle_does_not_make_a_hop_stand_twice():
    whole = Candidate("whole", Span(0, 6), layer_cost=2)
    middle = Candidate("middle", Span(2, 4), layer_cost=1)
    route = find_route(6, [whole, middle])
    assert route is not None
    assert [leg.candidate.key for leg in route] == ["whole"]


def test_part_of_a_span_is_enough():
    first = Candidate("a", Span(0, 4), layer_cost=1)
    second = Candidate("b", Span(2, 6), layer_cost=3)
    route = find_route(6, [first, second])
    assert route == [Leg(first, Span(0, 4)), Leg(second, Span(4, 6))]


def test_hop_penalty_prefers_fewer_hops():
    whole = Candidate("whole", Span(0, 4), layer_cost=2)
    halves = [Candidate("a", Span(0, 2), layer_cost=1), Candidate("b", Span(2, 4), layer_cost=1)]
    cheap = find_route(4, [whole, *halves])
    quick = find_route(4, [whole, *halves], Weights(hop_penalty=5))
    assert cheap is not None
    assert quick is not None
    assert (len(cheap), len(quick)) == (2, 1)


def test_latency_counts_as_it_is_weighed():
    far = Candidate("far", Span(0, 2), layer_cost=1, latency_s=0.2)
    near = Candidate("near", Span(0, 2), layer_cost=2, latency_s=0.01)
    route = find_route(2, [far, near], Weights(second_penalty=100))
    assert route is not None
    assert route[0].candidate.key == "near"


def test_equals_are_decided_by_order():
    twins = [Candidate(name, Span(0, 3), layer_cost=1) for name in "xyz"]
    for order in itertools.permutations(twins):
        route = find_route(3, order)
        assert route is not None
        assert route[0].candidate is order[0]


def test_too_many_hops_fall_back_to_the_fewest():
    layers = HOPS_MAX + 1
    single = [Candidate(i, Span(i, i + 1)) for i in range(layers)]
    assert find_route(layers, single) is None
    route = find_route(layers, [*single, Candidate("pair", Span(0, 2), layer_cost=9)])
    assert route is not None
    assert len(route) == HOPS_MAX


def test_many_candidates_are_searched_in_one_pass():
    candidates = [Candidate(i, Span(i % 60, i % 60 + 20), layer_cost=i % 7) for i in range(2000)]
    route = find_route(79, candidates, Weights(hop_penalty=3))
    assert route is not None
    assert route[-1].span.end == 79


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 13), st.integers(0, 13)).map(sorted), max_size=5),
)
def test_missing_spans_are_exactly_the_layers_nobody_holds(layers, pairs):
    spans = [Span(start, end) for start, end in pairs]
    missing = missing_spans(layers, spans)
    held = {layer for span in spans for layer in range(span.start, span.end)}
    assert [n for s in missing for n in range(s.start, s.end)] == [
        n for n in range(layers) if n not in held
    ]
    assert all(a.end < b.start for a, b in itertools.pairwise(missing))
