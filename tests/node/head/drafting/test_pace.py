"""The pace: how much is drafted under what acceptance and link, and what is never risked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.head.drafting.acceptance import PRIOR_TRIALS, SOURCES_MAX, Acceptance
from node.head.drafting.pace import (
    DEPTH_MAX,
    DRAFT_MAX,
    LOOP_STEPS_FIRST,
    LOOP_STEPS_MAX,
    Pace,
)

WAN = (0.130, 0.002)
LAN_ONE_HOP = (0.030, 0.006)
MANY = 1000


def pace_of(alpha, base_s, slope_s, *, hop_count=3, steps=20):
    """A pace that has seen steps of such times and drafts of such acceptance."""
    pace = Pace(hop_count=hop_count)
    for index in range(steps):
        rows = 1 + 8 * (index % 2)
        pace.note_step(rows, base_s + slope_s * rows, drafted=rows - 1)
    held = 0.0
    for _ in range(400):
        held += alpha
        pace.acceptance.note("s", held=held >= 1)
        held -= held >= 1
    return pace


def closed_form(alpha, base_s, slope_s):
    counts = range(DRAFT_MAX + 1)
    return max(
        counts,
        key=lambda k: (1 - alpha ** (k + 1)) / (1 - alpha) / (base_s + slope_s * (k + 1)),
    )


class TestAcceptance:
    def test_a_first_opinion_gives_way_to_what_is_seen(self):
        acceptance = Acceptance()
        assert acceptance.rate("lookup:2") < 0.2 < 0.8 < acceptance.rate("lookup:32")
        for _ in range(200):
            acceptance.note("lookup:2", held=True)
        assert acceptance.rate("lookup:2") > 0.95
        for _ in range(200):
            acceptance.note("lookup:2", held=False)
        assert acceptance.rate("lookup:2") < 0.1

    def test_one_trial_moves_it_a_little(self):
        acceptance = Acceptance()
        acceptance.note("model", held=True)
        assert acceptance.rate("model") == pytest.approx(
            (1 + 0.5 * PRIOR_TRIALS) / (1 + PRIOR_TRIALS)
        )

    def test_a_branch_lives_while_all_of_it_holds(self):
        acceptance = Acceptance()
        rate = acceptance.rate("model")
        assert acceptance.alive([]) == 1
        assert acceptance.alive(["model", "model"]) == pytest.approx(rate**2)

    def test_remembers_so_many_sources_and_no_more(self):
        acceptance = Acceptance()
        for index in range(10 * SOURCES_MAX):
            acceptance.note(f"s{index}", held=True)
        assert acceptance.rate("s0") == pytest.approx(0.5)
        assert acceptance.rate(f"s{10 * SOURCES_MAX - 1}") > 0.5


class TestBest:
    @pytest.mark.parametrize("alpha", [0.2, 0.4, 0.6, 0.8, 0.9])
    def test_is_that_of_the_closed_form(self, alpha):
        pace = pace_of(alpha, *WAN)
        rate = pace.acceptance.rate("s")
        assert rate == pytest.approx(alpha, abs=0.03)
        assert pace.best("s", MANY) == pytest.approx(closed_form(rate, *WAN), abs=1)

    def test_is_none_where_drafting_does_not_pay(self):
        assert pace_of(0.1, *LAN_ONE_HOP).best("s", MANY) == 0
        assert pace_of(0.0, *WAN).best("s", MANY) == 0

    def test_keeps_to_the_room_there_is(self):
        pace = pace_of(0.9, *WAN)
        assert pace.best("s", MANY) > 3
        assert pace.best("s", 3) == 3
        assert pace.best("s", 0) == 0

    def test_begins_small_and_grows_with_what_has_been_tried(self):
        pace = Pace()
        counts = []
        for _ in range(6):
            count = pace.best("lookup:32", MANY)
            counts.append(count)
            pace.note_step(count + 1, 0.1 + 0.0001 * (count + 1), drafted=count)
            for _ in range(count):
                pace.acceptance.note("lookup:32", held=True)
        assert counts[0] == 2
        assert counts == sorted(counts)
        assert counts[-1] > 12

    def test_a_draft_that_keeps_waiting_is_smaller_or_none(self):
        free, dear = pace_of(0.6, *WAN), pace_of(0.6, *WAN)
        dear.note_wait("s", 4, 4 * 0.020)
        assert 0 < dear.best("s", MANY) < free.best("s", MANY)
        dear.note_wait("s", 1, 20.0)
        assert dear.best("s", MANY) == 0

    def test_dearer_rows_mean_shorter_drafts(self):
        counts = [pace_of(0.8, 0.130, slope_s).best("s", MANY) for slope_s in (1e-3, 4e-3, 3e-2)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > counts[-1] > 0

    @given(st.floats(0, 1), st.floats(1e-4, 10), st.floats(0, 10), st.integers(0, 600))
    def test_is_always_within_bounds(self, alpha, base_s, slope_s, room):
        pace = pace_of(alpha, base_s, slope_s, steps=4)
        assert 0 <= pace.best("s", room) <= min(room, DRAFT_MAX)
        assert 0 <= pace.first("s", 10) <= 10
        assert 0 <= pace.more("s", ["s"] * 60, room) <= min(room, DEPTH_MAX - 60)


class TestMore:
    def test_goes_on_while_the_branch_is_likely_to_hold(self):
        pace = pace_of(0.8, *WAN)
        depths = [depth for depth in range(40) if pace.more("s", ["s"] * depth, MANY)]
        assert depths == list(range(len(depths)))
        # p * 0.130 > 0.130 / 7 + ...: until 0.8^depth is about a sixth
        assert 5 <= len(depths) <= 10

    def test_a_single_hop_that_does_nothing_but_compute_gains_nothing_by_it(self):
        pace = pace_of(0.9, *LAN_ONE_HOP, hop_count=1)
        for _ in range(20):
            # each step waits for the one before it
            pace.note_behind(3, 2 * (0.030 + 3 * 0.006), 0.030 + 3 * 0.006)
        assert pace.more("s", ["s"], MANY) == 0
        assert pace.first("s", 6) == 6

    def test_then_a_draft_goes_in_halves(self):
        pace = pace_of(0.9, *WAN)
        assert pace.first("s", 12) == 6
        assert pace.first("s", 1) == 1

    def test_knows_nothing_before_the_first_step(self):
        assert Pace().more("lookup:32", [], MANY) == 0
        assert Pace().wait_max_s("model", 4) == 0


class TestExplore:
    def test_costs_a_small_share_of_the_time(self):
        pace = pace_of(0.0, *WAN)
        spent_s = 0.0
        for _ in range(1000):
            spent_s += pace.explore("s", MANY, loops=False) * pace.steps.slope_s
            pace.note_step(1, WAN[0] + WAN[1], drafted=0)
        assert 0 < spent_s < 0.01 * 1000 * WAN[0]

    def test_not_where_there_is_no_room(self):
        pace = pace_of(0.0, *WAN, steps=1000)
        assert pace.explore("s", 0, loops=False) == 0

    def test_other_lengths_are_tried_when_all_were_alike(self):
        pace = pace_of(0.6, *WAN)
        assert pace.stretch(2, MANY) == 2
        for _ in range(200):
            pace.note_step(3, WAN[0] + 3 * WAN[1], drafted=2)
        assert pace.stretch(2, MANY) > 2
        assert pace.stretch(2, 2) == 2


class TestLoop:
    def test_doubles_up_to_a_bound_while_drafting_does_not_pay(self):
        pace = pace_of(0.0, *WAN)
        steps = [pace.loop("s", 0, MANY) for _ in range(5)]
        assert steps == [8, 16, 32, 32, 32]
        assert steps[0] == LOOP_STEPS_FIRST
        assert steps[-1] == LOOP_STEPS_MAX

    def test_never_beyond_the_answer(self):
        pace = pace_of(0.0, *WAN)
        assert pace.loop("s", 0, 5) == 4
        assert pace.loop("s", 0, 1) == 0

    def test_drafting_goes_before_where_it_is_faster(self):
        pace = pace_of(0.8, *WAN)
        pace.note_loop(0.100)
        count = pace.best("s", MANY)
        assert pace.rate("s", count) > 10
        assert pace.loop("s", count, MANY) == 0

    def test_a_loop_goes_before_where_that_is_faster(self):
        pace = pace_of(0.2, *WAN)
        pace.note_loop(0.070)
        assert pace.loop("s", pace.best("s", MANY), MANY) == LOOP_STEPS_FIRST

    def test_a_loop_that_is_slower_than_the_heads_own_steps_is_left(self):
        pace = pace_of(0.0, *WAN)
        pace.note_loop(0.5)
        assert pace.loop("s", 0, MANY) == 0
