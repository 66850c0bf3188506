import random

import pytest

from node.engine.step_cost import StepCost

BASE_S, ROW_S = 0.1, 0.0013


def measured(rows, noise, base_s=BASE_S, row_s=ROW_S):
    return (base_s + row_s * rows) * noise


def taught(rows_of_batches, seed=0, **machine):
    cost = StepCost()
    teach(cost, rows_of_batches, seed, **machine)
    return cost


def teach(cost, rows_of_batches, seed=0, **machine):
    noise = random.Random(seed)
    for rows in rows_of_batches:
        cost.add(rows, measured(rows, noise.uniform(0.9, 1.1), **machine))


class TestStepCost:
    @pytest.mark.parametrize("seed", range(5))
    def test_learns_base_and_slope_through_noise(self, seed):
        cost = taught([0, 512, 64, 0, 128, 64, 0, 512] * 3, seed)
        assert cost.base_s == pytest.approx(BASE_S, rel=0.15)
        assert cost.row_s == pytest.approx(ROW_S, rel=0.15)

    def test_knows_nothing_before_the_first_batch_nor_of_rows_before_the_first_prefill(self):
        cost = StepCost()
        assert (cost.base_s, cost.row_s) == (0.0, None)
        teach(cost, [0] * 5)
        assert cost.row_s is None
        assert cost.base_s == pytest.approx(BASE_S, rel=0.1)

    def test_with_one_size_only_it_charges_the_rows_for_all(self):
        cost = taught([512])
        assert cost.row_s == pytest.approx(cost.predict_s(512) / 512)

    def test_one_batch_that_took_a_minute_is_no_catastrophe(self):
        cost = taught([0, 64] * 20)
        cost.add(64, 60.0)
        assert cost.predict_s(64) < 1.5 * measured(64, 1)

    def test_a_lasting_change_is_followed(self):
        cost = taught([0, 64] * 20)
        teach(cost, [0, 64] * 40, base_s=10 * BASE_S, row_s=10 * ROW_S)
        assert cost.predict_s(64) == pytest.approx(10 * measured(64, 1), rel=0.2)
        teach(cost, [0, 64] * 60)
        assert cost.predict_s(64) == pytest.approx(measured(64, 1), rel=0.3)

    def test_an_hour_of_decodes_does_not_forget_what_rows_cost(self):
        cost = taught([0, 64] * 20)
        before = cost.row_s
        teach(cost, [0] * 20_000)
        assert cost.row_s == pytest.approx(before, rel=0.3)

    def test_a_clock_that_stood_still_teaches_nothing(self):
        cost = taught([0, 64] * 20)
        before = (cost.base_s, cost.row_s)
        for duration_s in (0.0, -1.0, float("nan"), float("inf")):
            cost.add(64, duration_s)
        assert (cost.base_s, cost.row_s) == before
