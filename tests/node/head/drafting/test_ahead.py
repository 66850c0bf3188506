"""Drafting beside the session: one draft at a time, given up when its branch breaks, never left."""

import asyncio

import pytest

from node.head.drafting.ahead import Ahead, Guess
from node.head.drafting.base import Draft
from protocol.errors import EngineError

BRANCH = [1, 2, 3]


class SlowDrafter:
    """Answers when it is told to."""

    works = True

    def __init__(self, *, opening_error=None):
        self.asked = []
        self.may_answer = asyncio.Event()
        self.draft = Draft((4, 5, 6), "model")
        self.error = opening_error
        self.opened = 0
        self.closed = 0
        self.running = 0

    async def open(self):
        self.opened += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error

    def confirm(self, tokens):
        """All the same to it."""

    def source(self, branch):
        return "model"

    async def propose(self, branch, count):
        assert self.running == 0, "asked twice at once"
        self.running += 1
        try:
            self.asked.append((list(branch), count))
            await self.may_answer.wait()
            return self.draft
        finally:
            self.running -= 1

    async def close(self):
        self.closed += 1


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


class TestAhead:
    async def test_drafts_in_a_task_of_its_own(self):
        drafter = SlowDrafter()
        ahead = Ahead(drafter)
        ahead.start(BRANCH, 3)
        await settle()
        assert ahead.behind(BRANCH) is None
        drafter.may_answer.set()
        await ahead.wait(1.0)
        assert ahead.behind(BRANCH) == drafter.draft
        await ahead.close()
        assert (drafter.opened, drafter.closed) == (1, 1)

    async def test_waits_no_longer_than_it_is_told_to(self):
        ahead = Ahead(SlowDrafter())
        ahead.start(BRANCH, 3)
        await ahead.wait(-1.0)
        await ahead.wait(0.01)
        assert ahead.task is not None
        await ahead.close()

    async def test_one_draft_at_a_time(self):
        drafter = SlowDrafter()
        ahead = Ahead(drafter)
        ahead.start(BRANCH, 3)
        ahead.start([*BRANCH, 9], 3)
        await settle()
        assert drafter.asked == [(BRANCH, 3)]
        await ahead.close()

    async def test_work_on_a_broken_branch_is_given_up_and_new_work_begun(self):
        drafter = SlowDrafter()
        ahead = Ahead(drafter)
        ahead.start(BRANCH, 3)
        await settle()
        ahead.break_at(2)
        ahead.start([1, 2, 8], 2)
        drafter.may_answer.set()
        await ahead.wait(1.0)
        assert drafter.asked == [(BRANCH, 3), ([1, 2, 8], 2)]
        assert ahead.behind([1, 2, 8]) == drafter.draft
        assert drafter.opened == 1
        await ahead.close()

    async def test_work_goes_on_while_the_branch_under_it_holds(self):
        drafter = SlowDrafter()
        ahead = Ahead(drafter)
        ahead.start(BRANCH, 3)
        await settle()
        ahead.break_at(3)
        drafter.may_answer.set()
        await ahead.wait(1.0)
        assert ahead.behind([*BRANCH, 4]) == Draft((5, 6), "model")
        assert ahead.behind([*BRANCH, 9]) is None
        await ahead.close()

    async def test_having_nothing_to_say_is_not_asked_for_again(self):
        drafter = SlowDrafter()
        drafter.draft = None
        drafter.may_answer.set()
        ahead = Ahead(drafter)
        for _ in range(3):
            ahead.start(BRANCH, 3)
            await ahead.wait(1.0)
        assert len(drafter.asked) == 1
        ahead.start([*BRANCH, 4], 3)
        await ahead.wait(1.0)
        assert len(drafter.asked) == 2
        await ahead.close()

    async def test_what_cannot_open_is_closed_and_given_up(self):
        drafter = SlowDrafter(opening_error=EngineError("no room"))
        ahead = Ahead(drafter)
        ahead.start(BRANCH, 3)
        await ahead.wait(1.0)
        assert ahead.failed
        ahead.start(BRANCH, 3)
        assert ahead.task is None
        await ahead.close()
        assert drafter.closed == 1

    async def test_a_bug_is_not_taken_for_an_engine_that_fails(self):
        ahead = Ahead(SlowDrafter(opening_error=ValueError("a bug")))
        ahead.start(BRANCH, 3)
        with pytest.raises(ValueError, match="a bug"):
            await ahead.wait(1.0)
        await ahead.close()

    @pytest.mark.parametrize("ticks", range(6))
    async def test_closing_leaves_nothing_behind_at_any_moment(self, ticks):
        drafter = SlowDrafter()
        ahead = Ahead(drafter)
        ahead.start(BRANCH, 3)
        for _ in range(ticks):
            await asyncio.sleep(0)
        if ticks % 2:
            ahead.break_at(0)
            ahead.start([7], 1)
        await ahead.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert drafter.closed == drafter.opened


class TestGuess:
    def test_says_what_is_left_behind_a_branch_that_follows_it(self):
        guess = Guess(3, Draft((4, 5, 6), "s"))
        assert guess.behind(BRANCH) == Draft((4, 5, 6), "s")
        assert guess.behind([*BRANCH, 4, 5]) == Draft((6,), "s")
        assert guess.behind([*BRANCH, 4, 5], 4) == Draft((5, 6), "s")

    @pytest.mark.parametrize("branch", [[1, 2], [1, 2, 3, 9], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9]])
    def test_says_nothing_of_another(self, branch):
        assert Guess(3, Draft((4, 5, 6), "s")).behind(branch) is None
