from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.money import (
    BASIS_POINTS,
    MIB,
    NANOS_PER_USD,
    RATE_MAX,
    Rates,
    Work,
    amount_nanos,
    format_usd,
    with_fee_nanos,
    work_bound,
)
from tests.protocol.samples import rates, works


def exact(work: Work, asked: Rates) -> Fraction:
    """The same formula in rationals, as design.md words it."""
    million = 10**6
    return (
        Fraction(work.prefill_token_layers * asked.prefill_nanos_per_million_token_layers, million)
        + Fraction(work.decode_token_layers * asked.decode_nanos_per_million_token_layers, million)
        + Fraction(work.bytes_out * asked.activation_nanos_per_mib, MIB)
    )


class TestAmountNanos:
    @given(works, rates)
    def test_is_the_exact_amount_rounded_down_once(self, work, asked):
        amount = amount_nanos(work, asked)
        assert isinstance(amount, int)
        assert amount <= exact(work, asked) < amount + 1

    @given(works, works, rates)
    def test_never_falls_as_work_grows_and_never_pays_for_splitting(self, first, second, asked):
        whole = amount_nanos(first + second, asked)
        parts = amount_nanos(first, asked) + amount_nanos(second, asked)
        assert whole >= amount_nanos(first, asked)
        assert parts <= whole <= parts + 1

    @given(works)
    def test_nothing_is_owed_at_rate_zero(self, work):
        assert amount_nanos(work, Rates(0, 0, 0)) == 0

    def test_known_amounts(self):
        million = Work(prefill_token_layers=10**6)
        assert amount_nanos(million, Rates(7, 0, 0)) == 7
        assert amount_nanos(Work(decode_token_layers=999_999), Rates(0, 1, 0)) == 0
        assert amount_nanos(Work(bytes_out=MIB * 3), Rates(0, 0, 5)) == 15
        assert amount_nanos(Work(bytes_in=MIB * 3), Rates(9, 9, 9)) == 0
        # three halves: each alone rounds to nothing, together they are one nano
        halves = Work(500_000, 500_000, 0, MIB // 2)
        assert amount_nanos(halves, Rates(1, 1, 1)) == 1


class TestFee:
    @given(st.integers(0, 2**60), st.integers(0, BASIS_POINTS))
    def test_is_on_top_and_rounded_down(self, earned, fee):
        paid = with_fee_nanos(earned, fee)
        assert paid >= earned
        assert paid <= earned * Fraction(BASIS_POINTS + fee, BASIS_POINTS) < paid + 1


class TestWork:
    @given(works, works)
    def test_a_sum_covers_its_parts(self, first, second):
        assert (first + second).covers(first)
        assert first.covers(second) == (first + Work() == _greatest(first, second))

    @pytest.mark.parametrize("counts", [(-1, 0, 0, 0), (0, 0, 0, 2**62 + 1)])
    def test_refuses_impossible_counts(self, counts):
        with pytest.raises(RemoteProtocolError):
            Work(*counts)

    def test_bound_counts_every_token_once_and_every_row_out(self):
        bound = work_bound(layers=4, prompt_tokens=100, output_tokens=20, bytes_per_token=1_024)
        assert bound == Work(400, 80, 120 * 1_024, 120 * 1_024)


class TestRates:
    @pytest.mark.parametrize("value", [-1, RATE_MAX + 1])
    def test_refuses_rates_out_of_range(self, value):
        for values in ((value, 0, 0), (0, value, 0), (0, 0, value)):
            with pytest.raises(RemoteProtocolError):
                Rates(*values)


class TestFormatUsd:
    @given(st.integers(-(2**63), 2**63))
    def test_reads_back_exactly(self, amount):
        text = format_usd(amount)
        sign = -1 if text.startswith("-") else 1
        dollars, nanos = text.removeprefix("-").removeprefix("$").split(".")
        assert len(nanos) == 9
        assert sign * (int(dollars) * NANOS_PER_USD + int(nanos)) == amount

    def test_known_texts(self):
        assert format_usd(12_345) == "$0.000012345"
        assert format_usd(-1) == "-$0.000000001"
        assert format_usd(10 * NANOS_PER_USD) == "$10.000000000"


def _greatest(first: Work, second: Work) -> Work:
    return Work(
        max(first.prefill_token_layers, second.prefill_token_layers),
        max(first.decode_token_layers, second.decode_token_layers),
        max(first.bytes_in, second.bytes_in),
        max(first.bytes_out, second.bytes_out),
    )
