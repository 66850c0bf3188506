"""A stranger's JSON held to a shape: where it does not fit, and that nothing of it can break us."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.market_shapes import (
    is_base64,
    is_flag,
    is_hex,
    is_number,
    is_text,
    is_whole,
    misfit,
)

ROUTE = {"id": is_hex, "hops": [{"span": {"start": is_whole}, "rate": (is_number, None)}]}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
KINDS = st.sampled_from([is_base64, is_flag, is_hex, is_number, is_text, is_whole])
SHAPES = st.recursive(
    KINDS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=1)
        | st.tuples(inner, st.none())
        | st.dictionaries(st.text(), inner)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"id": "00", "hops": []}, None),
        ({"id": "00", "hops": [{"span": {"start": 1}, "rate": None}], "more": 1}, None),
        ({"id": "0", "hops": []}, ".id"),
        ({"hops": []}, ".id"),
        ({"id": "", "hops": {}}, ".hops"),
        ({"id": "", "hops": [{"span": {"start": 1}, "rate": 1}, 5]}, ".hops[1]"),
        ({"id": "", "hops": [{"span": {"start": True}, "rate": 1}]}, ".hops[0].span.start"),
        ({"id": "", "hops": [{"span": {"start": 1}, "rate": "1"}]}, ".hops[0].rate"),
        ({"id": "", "hops": [{"span": {"start": 1}}]}, ".hops[0].rate"),
        ([], ""),
        (None, ""),
    ],
    ids=str,
)
def test_the_place_is_named(value, place):
    assert misfit(value, ROUTE) == place


@pytest.mark.parametrize("value", [float("inf"), float("nan"), True, "1", None])
def test_what_is_no_number(value):
    assert not is_number(value)


@given(JSON)
def test_what_is_let_through_can_be_read(value):
    if is_hex(value):
        bytes.fromhex(value)
    if is_base64(value):
        assert base64.b64decode(value) == base64.b64decode(value, validate=True)
    if is_whole(value):
        assert value + 1 > value


@given(JSON, SHAPES)
def test_nothing_breaks_it(value, shape):
    place = misfit(value, shape)
    assert place is None or isinstance(place, str)
