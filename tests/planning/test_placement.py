"""Placement: joining nodes tile the model; a house is planned as brute force would."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planning.placement import Machine, choose_span, coverage_of, place
from planning.routes import missing_spans
from protocol.errors import LocalProtocolError
from protocol.route import Span


@given(st.integers(1, 40), st.integers(1, 40))
def test_nodes_that_join_one_after_another_tile_the_model(layers, layers_max):
    spans = []
    for _ in range(-(-layers // layers_max)):
        spans.append(choose_span(layers, coverage_of(layers, spans), layers_max))
    assert missing_spans(layers, spans) == []


def test_a_layer_nobody_holds_weighs_more_than_many_that_few_hold():
    assert choose_span(6, [3, 0, 3, 1, 1, 1], 2) == Span(0, 2)


def test_the_least_covered_part_comes_next():
    assert choose_span(6, [2, 2, 1, 1, 2, 2], 2) == Span(2, 4)


def test_a_machine_larger_than_the_model_takes_all_of_it():
    assert choose_span(4, [0] * 4, 99) == Span(0, 4)


@pytest.mark.parametrize(("coverage", "layers_max"), [([0, 0], 0), ([0], 1)])
def test_nonsense_is_our_own_bug(coverage, layers_max):
    with pytest.raises(LocalProtocolError):
        choose_span(2, coverage, layers_max)


def test_coverage_ignores_layers_beyond_the_model():
    assert coverage_of(3, [Span(0, 2), Span(1, 9), Span(5, 6)]) == [1, 2, 1]


machines = st.lists(
    st.builds(
        Machine,
        name=st.just("m"),
        layers_max=st.integers(0, 6),
        token_layers_per_s=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]),
    ),
    max_size=4,
)


def best_by_brute_force(layers, pool):
    """(hops, slowest hop) of the best share of layers, or None."""
    usable = [range(min(m.layers_max, layers) + 1) if m.token_layers_per_s else (0,) for m in pool]
    plans = [
        (
            sum(1 for n in shares if n),
            max(
                Fraction(n) / Fraction(m.token_layers_per_s)
                for n, m in zip(shares, pool, strict=True)
                if n
            ),
        )
        for shares in itertools.product(*usable)
        if sum(shares) == layers
    ]
    return min(plans, default=None)


@given(st.integers(1, 8), machines)
def test_plan_is_as_good_as_any(layers, pool):
    spans = place(layers, pool)
    best = best_by_brute_force(layers, pool)
    if spans is None:
        assert best is None
        return
    assert missing_spans(layers, spans) == []
    assert sum(len(span) for span in spans) == layers
    assert all(len(s) <= m.layers_max for s, m in zip(spans, pool, strict=True))
    slowest = max(
        Fraction(len(s)) / Fraction(m.token_layers_per_s)
        for s, m in zip(spans, pool, strict=True)
        if len(s)
    )
    assert (sum(1 for s in spans if len(s)), slowest) == best


def test_a_model_that_fits_stays_whole_on_the_fastest_that_holds_it():
    pool = [Machine("slow", 8, 1.0), Machine("fast", 8, 5.0), Machine("small", 2, 50.0)]
    assert place(8, pool) == [Span(0, 0), Span(0, 8), Span(0, 0)]


def test_spans_follow_speed_within_memory():
    assert place(12, [Machine("a", 10, 1.0), Machine("b", 11, 3.0)]) == [Span(0, 3), Span(3, 12)]
    assert place(12, [Machine("a", 10, 1.0), Machine("b", 4, 3.0)]) == [Span(0, 8), Span(8, 12)]


def test_a_house_that_is_too_small_is_told_so():
    assert place(12, [Machine("a", 3, 1.0), Machine("b", 4, 3.0)]) is None
