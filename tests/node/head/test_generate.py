"""generate(): the same tokens however they are drafted, looped and timed; nothing left behind."""

import asyncio
import itertools
import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine.sampler import SamplerState, sample
from node.head.drafting.base import DraftingStatistics
from node.head.drafting.lookup import PromptLookup
from node.head.drafting.pace import Pace
from protocol.errors import EngineError, ErrorCode, HopFailed
from protocol.frame import StepKind
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from tests.node.head.drafting.fake_session import FakeRing, FakeSession
from tests.node.head.drafting.synthetic import SyntheticDrafter, collect
from tests.node.head.drafting.virtual import run_virtual

PROMPT = [5, 1, 4, 2, 3] * 3


def model(salt=0, vocabulary=6):
    """A model whose answers repeat themselves often, so that lookup has something to find."""
    return lambda rows: hash((tuple(rows[-2:]), len(rows) % 7 == 0, salt)) % vocabulary


def plain(draw, prompt, max_tokens, eos=frozenset()):
    """The answer, one token at a time."""
    tokens = []
    while len(tokens) < max_tokens and not (tokens and tokens[-1] in eos):
        tokens.append(draw([*prompt, *tokens]))
    return tokens


class ErraticPace(Pace):
    """Decides at random within its bounds: for orders of sends and results nobody would choose."""

    def __init__(self, seed):
        super().__init__()
        self._random = np.random.default_rng(seed)

    def _up_to(self, most):
        return int(self._random.integers(0, most + 1)) if most > 0 else 0

    def best(self, source, room):
        return self._up_to(min(room, 6))

    def more(self, source, ahead, room):
        return self._up_to(min(room, 6))

    def first(self, source, count):
        return 1 + self._up_to(count - 1)

    def stretch(self, count, room):
        return min(count + self._up_to(3), room)

    def explore(self, source, room, *, loops):
        return self._up_to(min(room, 1))

    def wait_max_s(self, source, count):
        return float(self._random.choice([0.0, 0.01, 1.0]))

    def loop(self, source, count, remaining):
        return self._up_to(min(remaining - 1, 4))


class TestWithoutDrafts:
    def test_one_token_a_trip_and_no_row_too_many(self):
        draw = model()

        async def main():
            session = FakeSession(draw, capacity_tokens=len(PROMPT) + 9)
            return await collect(session, PROMPT, max_tokens=10, eos=frozenset()), session

        (tokens, session), seconds = run_virtual(main)
        assert tokens == plain(draw, PROMPT, 10)
        assert [kind for kind, *_ in session.sent] == [StepKind.PREFILL, *[StepKind.DECODE] * 9]
        assert session.truncates == []
        assert seconds == pytest.approx(10 * (4 * 0.030 + 3 * 0.0134), rel=0.1)

    def test_rows_that_the_hops_have_are_not_sent(self):
        draw = model()

        async def main():
            session = FakeSession(draw, capacity_tokens=99, cached_tokens=6, prompt=PROMPT)
            return await collect(session, PROMPT, max_tokens=3, eos=frozenset()), session

        (tokens, session), _ = run_virtual(main)
        assert tokens == plain(draw, PROMPT, 3)
        assert session.sent[0] == (StepKind.PREFILL, 6, len(PROMPT) - 6, 0)

    @pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 256])
    def test_the_prompt_goes_in_chunks_of_the_size_that_is_asked_for(self, chunk_tokens):
        draw = model()
        prompt = PROMPT * 40

        async def main():
            session = FakeSession(draw, capacity_tokens=len(prompt) + 3)
            asked = {"max_tokens": 3, "eos": frozenset(), "chunk_tokens": chunk_tokens}
            return await collect(session, prompt, **asked), session

        (tokens, session), _ = run_virtual(main)
        assert tokens == plain(draw, prompt, 3)
        chunks = [count for kind, _, count, _ in session.sent if kind is StepKind.PREFILL]
        assert max(chunks) == min(chunk_tokens, len(prompt))
        assert sum(chunks) == len(prompt)


@settings(max_examples=120, deadline=None)
@given(
    salt=st.integers(0, 10**6),
    max_tokens=st.integers(1, 60),
    right=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    token_s=st.sampled_from([0.0, 0.003, 0.5]),
    loops=st.booleans(),
    erratic=st.booleans(),
    hops=st.integers(1, 4),
    eos=st.sampled_from([frozenset(), frozenset({0})]),
)
def test_tokens_are_those_of_plain_decoding(
    salt, max_tokens, right, token_s, loops, erratic, hops, eos
):
    draw = model(salt)
    statistics = DraftingStatistics()

    async def main():
        ring = FakeRing(hops, jitter_s=0.02)
        capacity = max(len(PROMPT) + max_tokens - 1, len(PROMPT))
        session = FakeSession(draw, capacity_tokens=capacity, ring=ring, eos=eos)
        drafter = SyntheticDrafter(draw, right=right, token_s=token_s, seed=salt)
        tokens = await collect(
            session, PROMPT, max_tokens=max_tokens, eos=eos, loops=loops,
            drafters=[PromptLookup(), drafter], statistics=statistics,
            pace=ErraticPace(salt) if erratic else Pace(hop_count=hops),
        )  # fmt: skip
        assert not drafter.is_open
        assert drafter.opened <= 1
        return tokens

    tokens, _ = run_virtual(main)
    assert tokens == plain(draw, PROMPT, max_tokens, eos)
    assert 0 <= statistics.accepted <= statistics.drafted
    assert statistics.rows >= len(tokens) - 1 - statistics.looped


class SealedSession(FakeSession):
    """Its results are activations: here the last two tokens of every wanted row."""

    dtype = WireDtype.FP32
    hidden_size = 2

    def output(self, rows):
        return np.asarray(rows[-2:], "<i4").tobytes()


class SamplingEnds:
    """The real sampler over logits that follow from the last two tokens."""

    dtype = WireDtype.FP32

    def __init__(self, sampling, *, vocabulary=5, seed=1):
        self.logits = np.random.default_rng(seed).normal(0, 1.2, [vocabulary] * 3)
        self._sampling = sampling
        self._state = SamplerState()

    async def embed(self, tokens, position):
        return np.asarray(tokens, "<i4").tobytes()

    async def draw(self, result):
        pairs = np.frombuffer(result.payload, "<i4").reshape(-1, 2)
        first = result.position + result.count - result.wanted + 1
        return [
            sample(self.logits[a, b].astype(np.float32), self._sampling, self._state, first + index)
            for index, (a, b) in enumerate(pairs)
        ]

    def probabilities(self, prompt, count):
        """Of every answer of `count` tokens."""
        weights = np.exp(self.logits)
        odds = weights / weights.sum(-1, keepdims=True)
        result = {}
        for tokens in itertools.product(range(len(odds)), repeat=count):
            rows = [*prompt, *tokens]
            places = range(len(prompt), len(rows))
            result[tokens] = math.prod(odds[rows[i - 2], rows[i - 1], rows[i]] for i in places)
        return result


def sampled(sampling, *, drafted, max_tokens, seed=0):
    """One sealed answer, with drafts in an erratic order or without any."""

    async def main():
        session = SealedSession(None, capacity_tokens=40 + max_tokens)
        guesser = SyntheticDrafter(lambda rows: (rows[-1] + seed) % 5, token_s=0.002)
        drafters = {"drafters": [PromptLookup(), guesser], "pace": ErraticPace(seed)}
        ends = SamplingEnds(sampling)
        return await collect(
            session, [n % 5 for n in range(12)], ends, max_tokens=max_tokens, eos=frozenset(),
            **(drafters if drafted else {}),
        )  # fmt: skip

    return run_virtual(main)[0]


class TestSampled:
    def test_drafts_change_neither_the_draw_of_a_seed_nor_the_odds_of_all(self):
        answers = 700
        counts = dict.fromkeys(SamplingEnds(None).probabilities([0, 1], 2), 0)
        for seed in range(answers):
            sampling = SamplingParameters(seed=seed)
            tokens = sampled(sampling, drafted=True, max_tokens=4, seed=seed)
            if seed % 5 == 0:
                assert tokens == sampled(sampling, drafted=False, max_tokens=4)
            counts[tuple(tokens[:2])] += 1
        expected = SamplingEnds(None).probabilities([n % 5 for n in range(12)], 2)
        assert sum(expected.values()) == pytest.approx(1)
        cells = [(counts[key], odds * answers) for key, odds in expected.items()]
        common = [(seen, wanted) for seen, wanted in cells if wanted >= 5]
        rare = [(seen, wanted) for seen, wanted in cells if wanted < 5]
        common.append((sum(s for s, _ in rare), sum(w for _, w in rare)))
        statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in common)
        # Pearson's test at one in ten thousand, by the Wilson-Hilferty approximation
        freedom = len(common) - 1
        spread = 2 / (9 * freedom)
        assert statistic < freedom * (1 - spread + 3.72 * math.sqrt(spread)) ** 3

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    @pytest.mark.parametrize("seed", range(12))
    def test_penalties_count_what_holds_and_nothing_else(self, temperature, seed):
        sampling = SamplingParameters.from_floats(
            temperature=temperature, frequency_penalty=0.7, presence_penalty=0.4, seed=seed
        )
        assert sampled(sampling, drafted=True, max_tokens=40, seed=seed) == sampled(
            sampling, drafted=False, max_tokens=40
        )


class FailingDrafter(SyntheticDrafter):
    """Drafts a few times, then its engine dies."""

    def __init__(self, *settings, after, **more):
        super().__init__(*settings, **more)
        self._left = after

    async def propose(self, branch, count):
        self._left -= 1
        if self._left < 0:
            raise EngineError("the engine is gone")
        return await super().propose(branch, count)


class FailingSession(FakeSession):
    """Loses a hop after so many results."""

    def __init__(self, *settings, results, **more):
        super().__init__(*settings, **more)
        self._results = results

    async def receive_result(self):
        self._results -= 1
        if self._results < 0:
            await asyncio.sleep(0.05)
            raise HopFailed(1, "12D3Koo", ErrorCode.PEER_GONE, "it closed the stream")
        return await super().receive_result()


class TestTrouble:
    @pytest.mark.parametrize("after", [0, 1, 3])
    def test_a_drafter_that_fails_is_told_once_and_the_answer_goes_on(self, after, caplog):
        draw = model()
        drafter = FailingDrafter(draw, token_s=0.003, after=after)

        async def main():
            session = FakeSession(draw, capacity_tokens=99)
            drafters = [drafter, PromptLookup()]
            return await collect(session, PROMPT, max_tokens=50, eos=frozenset(), drafters=drafters)

        with caplog.at_level(logging.WARNING, logger="node.head"):
            tokens, _ = run_virtual(main)
        assert tokens == plain(draw, PROMPT, 50)
        assert len(caplog.records) == 1
        assert "without its draft model" in caplog.text

    @pytest.mark.parametrize("token_s", [0.0, 0.003])
    @pytest.mark.parametrize("milliseconds", [1, 150, 290, 425, 561, 900])
    def test_cancelling_at_any_time_leaves_nothing_behind(self, milliseconds, token_s):
        drafter = SyntheticDrafter(model(), right=0.7, token_s=token_s)

        async def main():
            session = FakeSession(model(), capacity_tokens=999)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(milliseconds / 1000):
                    await collect(
                        session, PROMPT, max_tokens=900, eos=frozenset(),
                        drafters=[PromptLookup(), drafter],
                    )  # fmt: skip
            assert not drafter.is_open

        run_virtual(main)

    @pytest.mark.parametrize("results", range(6))
    def test_a_hop_that_fails_ends_the_answer_and_leaves_nothing_behind(self, results):
        drafter = SyntheticDrafter(model(), token_s=0.003)

        async def main():
            session = FailingSession(model(), capacity_tokens=99, results=results)
            with pytest.raises(HopFailed):
                await collect(session, PROMPT, max_tokens=50, eos=frozenset(), drafters=[drafter])
            assert not drafter.is_open

        run_virtual(main)


class TestBounds:
    @pytest.mark.parametrize("spare_rows", [0, 1, 7])
    def test_no_more_rows_run_in_vain_than_may(self, spare_rows):
        statistics = DraftingStatistics()

        async def main():
            session = FakeSession(model(), capacity_tokens=999)
            drafter = SyntheticDrafter(model(), right=0.5, source="lookup:32")
            await collect(
                session, PROMPT, max_tokens=200, eos=frozenset(), statistics=statistics,
                drafters=[drafter], spare_rows=spare_rows,
            )  # fmt: skip

        run_virtual(main)
        assert statistics.rows <= 199 + spare_rows
        assert (statistics.drafted > 0) == (spare_rows > 0)

    def test_a_free_place_is_kept_among_the_steps_on_their_way(self):
        async def main():
            # all wrong, from a drafter that everybody believes: the session would refuse a ninth
            session = FakeSession(model(), capacity_tokens=999)
            pace = Pace()
            for _ in range(200):
                pace.acceptance.note("model", held=True)
                pace.note_step(2, 0.2, drafted=30)
            drafter = SyntheticDrafter(model(), right=0.98)
            return await collect(
                session, PROMPT, max_tokens=300, eos=frozenset(), drafters=[drafter], pace=pace
            )

        tokens, _ = run_virtual(main)
        assert tokens == plain(model(), PROMPT, 300)

    def test_what_drafting_came_to_is_told(self):
        statistics = DraftingStatistics()

        async def main():
            session = FakeSession(model(), capacity_tokens=999)
            return await collect(
                session, PROMPT, max_tokens=200, eos=frozenset(), statistics=statistics,
                drafters=[SyntheticDrafter(model())],
            )  # fmt: skip

        tokens, _ = run_virtual(main)
        assert len(tokens) == 200
        assert statistics.accepted > 150
        assert statistics.trips < 60
        assert statistics.steps >= statistics.trips - 1
        assert statistics.rows >= 199
