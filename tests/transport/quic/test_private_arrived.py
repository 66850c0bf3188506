"""What arrives out of order: the same ranges as aioquic's, but bounded."""

import pytest
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.rangeset import RangeSet
from hypothesis import given
from hypothesis import strategies as st

from transport.quic.private_arrived import Arrived

PIECES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=40)


@given(PIECES, st.integers(0, 5))
def test_ranges_are_those_of_aioquic(pieces, shifts):
    ours, stock = Arrived(1000), RangeSet()
    for start, size in pieces:
        for each in (ours, stock):
            each.add(start, start + size)
        assert list(ours) == list(stock)
    for _ in range(min(shifts, len(stock))):
        assert ours.shift() == stock.shift()
    assert list(ours) == list(stock)


def test_a_single_number_is_a_range():
    ranges = Arrived(3)
    ranges.add(7)
    assert list(ranges) == [range(7, 8)]


@pytest.mark.parametrize("step", [2, -2])
def test_more_gaps_than_the_limit_end_the_connection(step: int):
    ranges = Arrived(10)
    begin = 1000
    for index in range(10):
        ranges.add(begin + step * index)
    with pytest.raises(QuicConnectionError, match="too many gaps"):
        ranges.add(begin + step * 10)


def test_gaps_that_are_filled_do_not_count():
    ranges = Arrived(10)
    for index in range(1000):
        ranges.add(10 * index + 5, 10 * index + 10)
        ranges.add(10 * index, 10 * index + 5)
    assert list(ranges) == [range(10_000)]
