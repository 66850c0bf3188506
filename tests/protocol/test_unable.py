"""Who must begin from nothing, against a simulation of who can give whom which rows."""

from collections.abc import Iterator
from itertools import combinations, product

import pytest

from protocol.frame import Opened
from protocol.head_session import HeadSession
from protocol.route import Span
from tests.protocol.alone import DTYPE, HIDDEN, SESSION, route_of

RESUME = 3
Hop = tuple[int, int]
"""Rows that a hop has, and the first row that its log can give."""
EVERY_HOP = list(product(range(RESUME + 1), repeat=2))


def can_recover(hops: tuple[Hop, ...], forgetting: frozenset[int]) -> bool:
    """Whether every hop gets the rows it lacks from the hop before; the head has all tokens."""
    had, log_from = 0, 0
    for index, hop in enumerate(hops):
        rows, first = (0, 0) if index in forgetting else hop
        for row in range(rows, RESUME):
            is_run_again = row >= had
            if not is_run_again and row < log_from:
                return False
        had, log_from = rows, first
    return True


def subsets(count: int) -> Iterator[frozenset[int]]:
    for size in range(count + 1):
        yield from map(frozenset, combinations(range(count), size))


def a_head(hops: tuple[Hop, ...]) -> HeadSession:
    spans = [Span(index, index + 1) for index in range(len(hops))]
    head = HeadSession(
        SESSION, route_of(spans), hidden_size=HIDDEN, wire_dtype=DTYPE, metered=False, epoch=1,
        resume=RESUME,
    )  # fmt: skip
    for index, (rows, first) in enumerate(hops):
        head.accept_opened(index, Opened(SESSION, 1, index, "fake", "lan", rows, first))
    return head


@pytest.mark.parametrize("count", [1, 2, 3])
def test_they_are_the_fewest_with_which_all_can_go_on(count):
    for hops in product(EVERY_HOP, repeat=count):
        unable = a_head(hops).unable()
        assert can_recover(hops, unable), hops
        for other in subsets(count):
            assert unable <= other or not can_recover(hops, other), hops


def test_once_they_have_forgotten_nobody_else_is_unable():
    for hops in product(EVERY_HOP, repeat=3):
        unable = a_head(hops).unable()
        after = tuple((0, 0) if index in unable else hop for index, hop in enumerate(hops))
        assert a_head(after).unable() == frozenset()
