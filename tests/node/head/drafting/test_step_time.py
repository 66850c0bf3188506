"""Step times: base and slope come out of what steps took, whatever came first or went astray."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.head.drafting.step_time import FLAT_STEPS_MAX, SLOPE_MIN, StepTime

BASE_S, SLOPE_S = 0.120, 0.002


def seconds(rows):
    return BASE_S + SLOPE_S * rows


def learned(lengths, *, hop_count=3):
    steps = StepTime(hop_count)
    for rows in lengths:
        steps.note(rows, seconds(rows))
    return steps


class TestNote:
    def test_finds_base_and_slope(self):
        steps = learned([1, 5, 3, 9, 1])
        assert steps.base_s == pytest.approx(BASE_S, rel=0.01)
        assert steps.slope_s == pytest.approx(SLOPE_S, rel=0.01)
        assert steps.predict_s(7) == pytest.approx(seconds(7), rel=0.01)

    def test_the_prompt_gives_a_first_idea_of_the_slope(self):
        steps = StepTime(3)
        steps.note_prefill(200, seconds(200))
        steps.note(1, seconds(1))
        assert steps.slope_s == pytest.approx(SLOPE_S, rel=0.01)

    def test_without_one_a_row_is_guessed_to_be_a_share_of_the_base(self):
        steps = learned([1])
        assert 0 < steps.slope_s < 0.1 * steps.base_s

    def test_a_slope_stays_when_steps_become_alike(self):
        steps = learned([1, 5, 3, 9, *[4] * 200])
        assert steps.slope_s == pytest.approx(SLOPE_S, rel=0.01)

    def test_steps_that_are_alike_for_long_ask_for_another(self):
        assert not learned([1, 5, 3]).is_flat
        steps = learned([1, 5, 3, *[2] * (FLAT_STEPS_MAX + 60)])
        assert steps.is_flat
        steps.note(5, seconds(5))
        assert not steps.is_flat

    def test_a_cold_start_and_a_lost_packet_do_not_count_for_much(self):
        steps = StepTime(3)
        steps.note(1, 40 * seconds(1))
        for rows in [3, 1, 5, 1, 3] * 4:
            steps.note(rows, seconds(rows))
        steps.note(1, 50 * seconds(1))
        assert steps.predict_s(3) == pytest.approx(seconds(3), rel=0.3)

    def test_a_lasting_change_is_followed(self):
        steps = learned([1, 5, 3] * 10)
        for rows in [1, 5, 3] * 20:
            steps.note(rows, 4 * seconds(rows))
        assert steps.predict_s(3) == pytest.approx(4 * seconds(3), rel=0.05)

    def test_noise_leaves_the_slope_within_reason(self):
        random = np.random.default_rng(5)
        steps = StepTime(3)
        for _ in range(60):
            rows = int(random.choice([1, 3, 5, 9]))
            steps.note(rows, seconds(rows) + 0.01 * random.random())
        assert 0.3 * SLOPE_S < steps.slope_s < 3 * SLOPE_S

    @given(st.lists(st.tuples(st.integers(1, 512), st.floats()), max_size=30))
    def test_no_clock_is_too_wild(self, notes):
        steps = StepTime(2)
        for rows, elapsed_s in notes:
            steps.note(rows, min(elapsed_s, 1e6))
            steps.note_behind(rows, min(elapsed_s, 1e6), min(elapsed_s, 1e6))
        assert steps.base_s > 0
        assert steps.slope_s > 0
        assert steps.busy_s(4) >= 0
        assert steps.slope_s >= 0.5 * SLOPE_MIN * steps.predict_s(1)


class TestBusy:
    def test_guessed_from_the_route_until_steps_have_followed_one_another(self):
        steps = learned([1, 5, 3])
        assert steps.busy_s(1) == pytest.approx(steps.base_s / 7 + SLOPE_S / 3, rel=0.05)

    def test_steps_that_do_not_queue_say_how_short_it_is_at_most(self):
        steps = learned([1, 5, 3])
        steps.note_behind(2, seconds(2), 0.004)
        assert steps.busy_s(1) < 0.006

    def test_steps_that_queue_say_how_long_it_is(self):
        steps = learned([1, 5, 3], hop_count=1)
        for _ in range(10):
            steps.note_behind(2, 2 * seconds(2), seconds(2))
        assert steps.busy_s(2) == pytest.approx(seconds(2), rel=0.05)
