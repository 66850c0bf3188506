"""Houses with heavy ends, and houses that change: nothing moves that need not."""

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from planning.house import NOTHING, Machine, place
from planning.moves import replace_lost
from planning.routes import missing_spans
from protocol.route import Span


@st.composite
def machines(draw):
    layers = draw(st.integers(0, 6))
    beside_end = draw(st.integers(0, layers))
    return Machine(
        "m",
        layers,
        draw(st.sampled_from([0.0, 1.0, 2.0, 3.0])),
        beside_end,
        draw(st.integers(0, beside_end)),
    )


houses = st.lists(machines(), max_size=4)


def limit_of(machine, layers, span):
    return machine.limit(layers, (span.start == 0) + (span.end == layers))


def assert_holds(layers, pool, spans):
    assert missing_spans(layers, spans) == []
    assert sum(len(span) for span in spans) == layers
    for machine, span in zip(pool, spans, strict=True):
        assert not len(span) or (machine.is_able and len(span) <= limit_of(machine, layers, span))


def best_by_brute_force(layers, pool):
    """(hops, slowest hop) over every order and every share, or None."""
    able = [machine for machine in pool if machine.is_able]
    for count in range(1, len(able) + 1):
        times = []
        for chain in itertools.permutations(able, count):
            for cuts in itertools.combinations(range(1, layers), count - 1):
                spans = [Span(a, b) for a, b in itertools.pairwise((0, *cuts, layers))]
                if all(len(s) <= limit_of(m, layers, s) for m, s in zip(chain, spans, strict=True)):
                    speeds = [Fraction(m.token_layers_per_s) for m in chain]
                    times.append(max(len(s) / v for s, v in zip(spans, speeds, strict=True)))
        if times:
            return count, min(times)
    return None


@given(st.integers(1, 7), houses)
def test_a_plan_with_heavy_ends_is_as_good_as_any(layers, pool):
    spans = place(layers, pool)
    best = best_by_brute_force(layers, pool)
    if spans is None:
        assert best is None
        return
    assert_holds(layers, pool, spans)
    used = [(s, m) for s, m in zip(spans, pool, strict=True) if len(s)]
    slowest = max(len(s) / Fraction(m.token_layers_per_s) for s, m in used)
    assert (len(used), slowest) == best


@given(st.integers(1, 7), houses)
def test_spreading_uses_as_many_machines_as_hold_a_layer(layers, pool):
    fewest, most = place(layers, pool), place(layers, pool, spread=True)
    assert (fewest is None) == (most is None)
    if most is not None:
        assert_holds(layers, pool, most)
        assert sum(map(bool, map(len, most))) >= sum(map(bool, map(len, fewest)))


def test_a_machine_that_carries_an_end_holds_fewer_layers():
    small = Machine("small", 4, 1.0, layers_beside_end=2, layers_with_ends=0)
    assert place(8, [small, small]) is None
    assert sorted(place(8, [small] * 3)) == [Span(0, 2), Span(2, 6), Span(6, 8)]


@given(st.integers(1, 7), houses, machines())
def test_a_machine_that_comes_moves_nothing_in_a_model_that_is_whole(layers, pool, joiner):
    spans = place(layers, pool)
    if spans is not None:
        assert replace_lost(layers, [*pool, joiner], [*spans, None]) == [*spans, NOTHING]


@given(st.integers(1, 7), houses, st.data())
def test_who_leaves_is_replaced_whenever_the_others_can_hold_the_model(layers, pool, data):
    spans = place(layers, pool)
    if spans is None:
        return
    gone = data.draw(st.integers(0, len(pool) - 1))
    left, held = pool[:gone] + pool[gone + 1 :], spans[:gone] + spans[gone + 1 :]
    after = replace_lost(layers, left, held)
    if after is None:
        assert place(layers, left) is None
    else:
        assert_holds(layers, left, after)


def test_an_idle_machine_takes_the_place_of_the_one_that_left():
    pool = [Machine("a", 4, 1.0), Machine("c", 4, 1.0), Machine("idle", 5, 9.0)]
    held = [Span(0, 4), Span(8, 12), None]
    assert replace_lost(12, pool, held) == [Span(0, 4), Span(8, 12), Span(4, 8)]


def test_survivors_keep_their_order_where_all_must_move():
    pool = [Machine("c", 6, 1.0), Machine("a", 6, 1.0)]
    assert replace_lost(12, pool, [Span(8, 12), Span(0, 4)]) == [Span(6, 12), Span(0, 6)]


def test_a_machine_whose_room_has_shrunk_is_relieved():
    pool = [Machine("a", 3, 1.0), Machine("b", 8, 1.0)]
    assert replace_lost(8, pool, [Span(0, 4), Span(4, 8)]) == [NOTHING, Span(0, 8)]


def test_spreading_makes_room_for_a_machine_that_comes():
    pool = [Machine("a", 8, 1.0), Machine("b", 8, 1.0)]
    assert replace_lost(8, pool, [Span(0, 8), None]) == [Span(0, 8), NOTHING]
    assert replace_lost(8, pool, [Span(0, 8), None], spread=True) == [Span(0, 4), Span(4, 8)]
