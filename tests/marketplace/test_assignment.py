"""Filling places: against every other way of filling them."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.assignment import assign

places = st.lists(
    st.dictionaries(st.integers(0, 5), st.integers(0, 9), max_size=6), min_size=1, max_size=5
)


def best(costs):
    """(places left empty, sum) of the best of all choices; the sum only where none is empty."""
    options = [[None, *place] for place in costs]
    ratings = []
    for choice in itertools.product(*options):
        keys = [key for key in choice if key is not None]
        if len(set(keys)) == len(keys):
            total = sum(costs[i][key] for i, key in enumerate(choice) if key is not None)
            ratings.append((choice.count(None), total))
    empty, total = min(ratings)
    return empty, total * (not empty)


@given(places)
@settings(deadline=None)
def test_nothing_is_cheaper(costs):
    chosen = assign(costs)
    keys = [key for key in chosen if key is not None]
    assert len(set(keys)) == len(keys)
    assert all(key in place for key, place in zip(chosen, costs, strict=True) if key is not None)
    total = sum(costs[i][key] for i, key in enumerate(chosen) if key is not None)
    assert (chosen.count(None), total * (None not in chosen)) == best(costs)


@given(places)
def test_the_same_again(costs):
    assert assign(costs) == assign([dict(place) for place in costs])


def test_the_cheapest_for_one_gives_way_to_another():
    assert assign([{"a": 1, "b": 2}, {"a": 1}]) == ["b", "a"]


def test_equal_costs_go_to_the_first():
    assert assign([{"a": 1, "b": 1}, {"c": 1, "a": 1}]) == ["a", "c"]


def test_a_place_nobody_can_take():
    assert assign([{}, {"a": 1}]) == [None, "a"]
    assert assign([]) == []


def test_a_long_route_all_of_whose_hops_want_the_same():
    costs = [{key: (key * 7 + place * 13) % 64 for key in range(70)} for place in range(64)]
    assert len(set(assign(costs))) == 64
