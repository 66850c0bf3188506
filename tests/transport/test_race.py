import asyncio

import pytest

from transport.errors import Attempt, DialFailed
from transport.race import first_of


async def _after(seconds, value):
    await asyncio.sleep(seconds)
    return value


def _fails(reason, seconds=0.0):
    async def fail():
        await asyncio.sleep(seconds)
        raise DialFailed("peer", (Attempt("a", reason, 0.0),))

    return fail


async def test_the_first_wins_and_the_other_is_called_off():
    ended = []

    async def slow():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("slow")
            raise

    ways = [(0.0, slow), (0.0, lambda: _after(0.01, "fast"))]
    assert await first_of("peer", ways, ended.append) == "fast"
    assert ended == ["slow"]


async def test_a_way_begins_before_its_time_when_the_one_before_failed():
    ways = [(0.0, _fails("no")), (60.0, lambda: _after(0, "second"))]
    assert await asyncio.wait_for(first_of("peer", ways, print), 5) == "second"


async def test_when_all_fail_every_attempt_is_told():
    with pytest.raises(DialFailed) as caught:
        await first_of("peer", [(0.0, _fails("one")), (0.0, _fails("two"))], print)
    assert {a.reason for a in caught.value.attempts} == {"one", "two"}


async def test_two_results_in_one_turn_leave_one():
    discarded = []
    ways = [(0.0, lambda: _after(0, "a")), (0.0, lambda: _after(0, "b"))]
    winner = await first_of("peer", ways, discarded.append)
    assert {winner, *discarded} <= {"a", "b"}
    assert winner not in discarded


async def test_an_error_that_is_no_failed_dial_is_not_swallowed():
    async def broken():
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        await first_of("peer", [(0.0, broken), (0.0, lambda: _after(60, ""))], print)
