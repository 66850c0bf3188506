import pytest

from node.engine.rate import VALUES_MAX, Rate, Recent


class TestRate:
    def test_is_right_from_the_first_second_and_forgets(self):
        rate = Rate(10.0, 0.0)
        assert rate.per_s(0.0) == 0.0
        for second in range(1, 100):
            rate.add(5, float(second))
            if second in (2, 99):
                assert rate.per_s(float(second)) == pytest.approx(5.0, rel=0.5 / second + 0.06)
        assert rate.per_s(300.0) < 0.01


class TestRecent:
    def test_keeps_the_last_values_only(self):
        recent = Recent()
        assert (recent.mean(), recent.quantile(0.5)) == (0.0, 0.0)
        for value in range(10 * VALUES_MAX):
            recent.add(float(value))
        first = 9 * VALUES_MAX
        assert recent.mean() == first + (VALUES_MAX - 1) / 2
        assert recent.quantile(0.0) == first
        assert recent.quantile(0.5) == first + VALUES_MAX / 2 - 1
        assert recent.quantile(1.0) == 10 * VALUES_MAX - 1
