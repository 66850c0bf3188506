"""The sampler: what it may draw, how often, and that it draws the same again."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from node.engine.sampler import SamplerState, sample
from protocol.errors import EngineError
from protocol.sampling import SamplingParameters

GREEDY = SamplingParameters(temperature_millionths=0)
DRAWS = 4000

LOGITS = arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32, allow_nan=False)
)
PARAMETERS = st.builds(
    SamplingParameters.from_floats,
    temperature=st.floats(0.05, 2),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 1),
    top_k=st.integers(0, 50),
    frequency_penalty=st.floats(-2, 2),
    presence_penalty=st.floats(-2, 2),
    seed=st.integers(0, 2**63 - 1),
)


def draw_many(logits, **fields):
    """How often each token is drawn over many positions, without penalties."""
    parameters = SamplingParameters.from_floats(**{"seed": 3, **fields})
    counts = np.zeros(len(logits), dtype=int)
    for position in range(DRAWS):
        counts[sample(logits, parameters, SamplerState(), position)] += 1
    return counts


def probabilities_of(logits, temperature=1.0):
    weights = np.exp(logits.astype(np.float64) / temperature)
    return weights / weights.sum()


def chi_square_fits(counts, probabilities):
    """Pearson's test at about one in ten thousand, by the Wilson-Hilferty approximation."""
    kept = probabilities > 0
    assert not counts[~kept].any()
    wanted = probabilities[kept] * counts.sum()
    statistic = float(((counts[kept] - wanted) ** 2 / wanted).sum())
    freedom = int(kept.sum()) - 1
    spread = 2 / (9 * freedom)
    return statistic < freedom * (1 - spread + 3.72 * math.sqrt(spread)) ** 3


class TestGreedy:
    def test_takes_the_highest_and_the_lowest_id_on_a_tie(self):
        logits = np.array([0, 3, 1, 3], np.float32)
        assert sample(logits, GREEDY, SamplerState(), 0) == 1

    def test_penalties_apply(self):
        parameters = SamplingParameters.from_floats(temperature=0, presence_penalty=1.5)
        logits = np.array([1, 2, 0], np.float32)
        state = SamplerState()
        drawn = [sample(logits, parameters, state, position) for position in range(4)]
        # 2 falls to 0.5, 1 to -0.5: then 0.5 is the highest for good
        assert drawn == [1, 0, 1, 1]

    def test_seed_does_not_matter(self):
        logits = np.array([0.1, 0.2], np.float32)
        parameters = SamplingParameters(temperature_millionths=0, seed=77)
        assert {sample(logits, parameters, SamplerState(), p) for p in range(20)} == {1}


class TestDistribution:
    LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))

    @pytest.mark.parametrize("seed", [0, 1, 2**62])
    def test_tokens_come_by_their_probability(self, seed):
        counts = draw_many(self.LOGITS, seed=seed)
        assert chi_square_fits(counts, probabilities_of(self.LOGITS))

    @pytest.mark.parametrize("temperature", [0.3, 0.7, 2.0])
    def test_temperature_sharpens_or_flattens(self, temperature):
        counts = draw_many(self.LOGITS, temperature=temperature)
        assert chi_square_fits(counts, probabilities_of(self.LOGITS, temperature))

    @pytest.mark.parametrize(
        ("fields", "kept"),
        [
            ({"top_k": 2}, 2),
            ({"top_p": 0.5}, 2),
            ({"top_p": 0.69}, 2),
            ({"top_p": 0.71}, 3),
            ({"min_p": 0.3}, 3),
            ({"top_k": 4, "top_p": 0.72, "min_p": 0.5}, 2),
            ({"top_k": 1}, 1),
        ],
    )
    def test_limits_keep_the_likeliest_and_their_proportions(self, fields, kept):
        probabilities = probabilities_of(self.LOGITS)
        probabilities[kept:] = 0
        counts = draw_many(self.LOGITS, **fields)
        if kept == 1:
            assert counts[0] == DRAWS
        else:
            assert chi_square_fits(counts, probabilities / probabilities.sum())

    def test_frequency_counts_and_presence_does_not(self):
        logits = np.array([10, 0], np.float32)
        state = SamplerState()
        for position in range(4):
            state.record(position, 0)
        often = SamplingParameters.from_floats(temperature=0, frequency_penalty=2)
        once = SamplingParameters.from_floats(temperature=0, presence_penalty=2)
        assert sample(logits, often, state, 4) == 0  # 10 - 4 * 2 = 2 is above 0
        assert sample(logits, often, state, 5) == 0  # 10 - 5 * 2 = 0 is a tie
        assert sample(logits, often, state, 6) == 1
        state.truncate(6)
        assert sample(logits, once, state, 6) == 0


class TestBounds:
    @given(logits=LOGITS, parameters=PARAMETERS, position=st.integers(0, 10_000))
    def test_draw_is_within_every_limit(self, logits, parameters, position):
        before = logits.copy()
        token = sample(logits, parameters, SamplerState(), position)
        assert (logits == before).all()
        probabilities = probabilities_of(logits - logits.max(), parameters.temperature)
        higher = probabilities > probabilities[token]
        if parameters.top_k:
            assert higher.sum() < parameters.top_k
            probabilities = np.where(
                probabilities >= np.sort(probabilities)[::-1][: parameters.top_k][-1],
                probabilities,
                0,
            )
        assert probabilities[higher].sum() / probabilities.sum() < parameters.top_p + 1e-6
        assert probabilities[token] >= parameters.min_p * probabilities.max() * (1 - 1e-6)

    @given(logits=LOGITS, parameters=PARAMETERS)
    def test_highest_is_never_excluded(self, logits, parameters):
        only = SamplingParameters(
            temperature_millionths=parameters.temperature_millionths,
            top_p_millionths=1,
            seed=parameters.seed,
        )
        drawn = sample(logits, only, SamplerState(), 0)
        # Logits may differ by less than their weights can tell: then the lower id is as likely.
        below = float(logits[drawn]) - float(logits.max())
        assert np.exp(below / only.temperature) == 1

    def test_token_ruled_out_by_minus_infinity_is_never_drawn(self):
        logits = np.array([-np.inf, 0, -np.inf, 0], np.float32)
        assert set(np.flatnonzero(draw_many(logits))) == {1, 3}


class TestReplay:
    @settings(max_examples=50)
    @given(
        logits=arrays(np.float32, (12, 20), elements=st.floats(-5, 5, width=32)),
        parameters=PARAMETERS,
        cut=st.integers(0, 12),
    )
    def test_truncate_and_again_draws_the_same(self, logits, parameters, cut):
        state = SamplerState()
        first = [sample(row, parameters, state, position) for position, row in enumerate(logits)]
        state.truncate(cut)
        again = [
            sample(row, parameters, state, position)
            for position, row in enumerate(logits[cut:], start=cut)
        ]
        assert first[cut:] == again

    @given(logits=LOGITS, parameters=PARAMETERS, position=st.integers(0, 100))
    def test_position_drawn_again_does_not_count_itself(self, logits, parameters, position):
        state = SamplerState()
        first = sample(logits, parameters, state, position)
        assert sample(logits, parameters, state, position) == first

    def test_positions_and_seeds_draw_independently(self):
        logits = np.zeros(1000, np.float32)
        drawn = {
            sample(logits, SamplingParameters(seed=seed), SamplerState(), position)
            for seed in range(20)
            for position in range(20)
        }
        assert len(drawn) > 250


class TestState:
    @given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=60))
    def test_counts_are_those_of_the_tokens_kept(self, records):
        state, kept = SamplerState(), {}
        for position, token in records:
            state.record(position, token)
            kept = {place: other for place, other in kept.items() if place < position}
            kept[position] = token
        expected = {token: list(kept.values()).count(token) for token in kept.values()}
        assert dict(state.counts) == expected

    @given(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=30),
        st.lists(st.integers(0, 4), max_size=8),
        st.integers(0, 30),
    )
    def test_what_was_drawn_is_undone(self, records, drawn, position):
        state = SamplerState()
        for place, token in records:
            state.record(place, token)
        before, counts = state.since(0), dict(state.counts)
        voided = state.since(position)
        for place, token in enumerate(drawn, position):
            state.record(place, token)
        state.put_back(position, voided)
        assert list(state.since(0).items()) == list(before.items())
        assert state.counts == counts

    def test_a_draw_that_fails_leaves_them(self):
        state = SamplerState([4, 4, 6], 10)
        with pytest.raises(EngineError):
            sample(np.full(8, np.nan, np.float32), GREEDY, state, 11)
        assert state.counts == {4: 2, 6: 1}

    def test_begins_with_their_counts(self):
        assert SamplerState([4, 4, 6], 10).counts == {4: 2, 6: 1}
        assert SamplerState().counts == {}

    @pytest.mark.parametrize(
        ("position", "length", "left"),
        [
            (0, 0, 3),
            (11, 11, 3),
            (5, 11, 3),  # the replay's last row is still missing
            (11, 12, 2),
            (10, 12, 1),
            (0, 12, 0),
            (10, None, 1),
        ],
    )
    def test_rows_that_go_take_tokens_once_all_rows_are_there(self, position, length, left):
        state = SamplerState([4, 4, 6], 10)
        state.forget_rows(position, length)
        assert sum(state.counts.values()) == left


class TestErrors:
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("parameters", [GREEDY, SamplingParameters()])
    def test_nan_and_infinity_are_errors(self, bad, parameters):
        state = SamplerState()
        with pytest.raises(EngineError, match="position 5"):
            sample(np.array([0, bad, 2], np.float32), parameters, state, 5)
        assert not state.counts

    def test_no_token_left_is_an_error(self):
        with pytest.raises(EngineError):
            sample(np.full(3, -np.inf, np.float32), GREEDY, SamplerState(), 0)
