"""The measures of the congestion controller."""

from math import inf
from random import Random

import pytest

from transport.congestion.filters import ExcessLoss, Growth, MaxFilter, RateCap


class TestMaxFilter:
    def test_the_largest_of_the_last_rounds_counts(self):
        largest = MaxFilter(3)
        for value in (5.0, 9.0, 1.0):
            largest.add(value)
            largest.next_round()
        assert largest.value == 9.0
        largest.add(2.0)
        largest.next_round()
        assert largest.value == 2.0

    def test_within_a_round_a_smaller_one_changes_nothing(self):
        largest = MaxFilter(3)
        largest.add(9.0)
        largest.add(1.0)
        assert largest.value == 9.0

    def test_rounds_without_a_value_forget_nothing(self):
        largest = MaxFilter(3)
        largest.add(9.0)
        for _ in range(100):
            largest.next_round()
        assert largest.value == 9.0

    def test_reset_begins_with_a_guess(self):
        largest = MaxFilter(3)
        largest.add(9.0)
        largest.reset(4.0)
        assert largest.value == 4.0


class TestGrowth:
    def test_doubling_goes_on_even_beside_a_queue(self):
        growth = Growth()
        assert not any(growth.has_ended(2.0**n, is_queueing=True) for n in range(10))

    def test_three_rounds_without_growth_end_it(self):
        growth = Growth()
        assert [growth.has_ended(5.0, is_queueing=False) for _ in range(4)] == [
            False,
            False,
            False,
            True,
        ]

    def test_one_round_of_little_growth_ends_it_where_a_queue_stands(self):
        growth = Growth()
        assert not growth.has_ended(5.0, is_queueing=False)
        assert growth.has_ended(7.0, is_queueing=True)


def excesses(share: float, packets: int, seed: int) -> int:
    random, loss, count = Random(seed), ExcessLoss(0.02), 0
    for _ in range(packets):
        if random.random() < share:
            count += loss.on_lost(1)
        else:
            loss.on_acked(1)
    return count


class TestExcessLoss:
    @pytest.mark.parametrize("share", [0.001, 0.005, 0.01])
    def test_a_noisy_line_is_hardly_ever_blamed(self, share: float):
        assert sum(excesses(share, 10_000, seed) for seed in range(5)) <= 5

    @pytest.mark.parametrize("share", [0.1, 0.3])
    def test_congestion_is_noticed_within_a_hundred_packets(self, share: float):
        assert all(excesses(share, 150, seed) for seed in range(5))

    def test_a_few_losses_of_a_short_flow_prove_nothing(self):
        assert not any(ExcessLoss(0.02).on_lost(1) for _ in range(3))


class TestRateCap:
    def test_a_cut_holds_for_some_rounds_and_is_then_forgotten(self):
        cap = RateCap()
        cap.cut(100.0, 0.0)
        assert cap.value == 85.0
        for _ in range(5):
            cap.on_round(100.0)
        assert 100.0 < cap.value < 125.0
        for _ in range(5):
            cap.on_round(100.0)
        assert cap.value == inf

    def test_what_was_delivered_is_not_given_up(self):
        cap = RateCap()
        cap.cut(100.0, 95.0)
        assert cap.value == 95.0
