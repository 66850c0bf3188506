"""Many sequences in two torch shards, as the unsplit model gives each by itself, whatever happens.

A failing run prints hypothesis's steps and how to repeat them.
"""

import hashlib
import itertools
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from node.engine.base import ComputeDtype, StepResult
from node.engine.errors import OutOfKV, StepInvalid
from protocol.errors import EngineError
from protocol.limits import PREFIX_BLOCK_TOKENS as BLOCK
from protocol.route import Span
from protocol.sampling import SamplingParameters
from tests.node.engine.engine_cases import GREEDY, spec_of, tokens_item
from tests.node.engine.torch_cases import LAYERS, make_unsplit, prompt_of, step_through, torch

# after torch_cases, which skips this module where torch is not installed
from node.engine.torch_backend import load  # isort: skip
from node.engine.torch_backend.backend import TorchEngine  # isort: skip
from node.engine.torch_backend.shard import load_shard  # isort: skip

KV_TOKENS = 1500
SEQUENCES_MIN = 200
BASES = [prompt_of(250, seed=seed) for seed in (1, 2)]
"""Prompts begin as one of these, so that prefixes are found."""
PROMPTS = st.builds(
    lambda base, shared, own: base[:shared] + own,
    st.sampled_from(BASES),
    st.sampled_from([0, 30, 100, 140, 200, 250]),
    st.lists(st.integers(5, 2000), min_size=1, max_size=30),
)
SIZES = st.sampled_from([0, 1, 4, 50, 150, 300])
"""Rows of one sequence in a step: of its prompt, and after that fewer, as drafts."""


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory):
    torch.set_num_threads(1)
    made = {}

    def make(name):
        if name not in made:
            made[name] = make_unsplit(tmp_path_factory.mktemp("models"), name)
        return made[name]

    return make


def specs_of(unsplit, **fields):
    """Two shards that tile the model."""
    bounds = ((0, 1), (1, LAYERS))
    return [spec_of(unsplit.directory, *span, layers=LAYERS, **fields) for span in bounds]


def shards_of(unsplit, **fields):
    return [load(spec) for spec in specs_of(unsplit, **fields)]


def chain(tokens):
    """A hash a block over all the tokens up to its end."""
    digest, links = hashlib.blake2b(digest_size=16), []
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        digest.update(np.asarray(tokens[start : start + BLOCK], np.int32).tobytes())
        links.append(digest.digest())
    return links


def open_reusing(engines, sequence_id, prompt, capacity, *, sampling=GREEDY):
    """As a head does: the rows that every shard has, and no shard has more."""
    options = {"capacity_tokens": capacity, "sampling": sampling, "prefix": chain(prompt)}
    reused = [engine.open(sequence_id, **options) for engine in engines]
    for engine in engines:
        engine.truncate(sequence_id, min(reused))
    return min(reused)


@dataclass
class Held:
    """One open sequence: what is to be fed, what was, and the token drawn after each row."""

    prompt: list[int]
    capacity: int
    tokens: list[int] = field(default_factory=list)
    drawn: dict[int, int] = field(default_factory=dict)


class Sequences(RuleBasedStateMachine):
    """Opens, ragged steps of prefills, decodes and verifies, truncates and closes, at random."""

    loaded: list
    """(spec, shard): each run begins with engines of its own on the same weights."""
    unsplit: object
    opened = reused = 0

    def __init__(self):
        super().__init__()
        self.engines = [TorchEngine(spec, shard) for spec, shard in self.loaded]
        self.ids = itertools.count()
        self.held: dict[int, Held] = {}

    @rule(prompt=PROMPTS, spare=st.integers(0, 60))
    def open(self, prompt, spare):
        self.begin(prompt, spare)

    def begin(self, prompt, spare):
        """Gives the sequence's id, or None where there is no room."""
        sequence, index = Held(prompt, len(prompt) + spare), next(self.ids)
        try:
            reused = open_reusing(self.engines, index, prompt, sequence.capacity)
        except OutOfKV:
            reserved = sum(one.capacity for one in self.held.values())
            assert reserved + sequence.capacity > KV_TOKENS * 9 // 10
            return None
        sequence.tokens = prompt[:reused]
        self.held[index] = sequence
        type(self).opened += 1
        type(self).reused += bool(reused)
        return index

    @rule(prompt=PROMPTS)
    def answer(self, prompt):
        """A whole short session while the others wait."""
        index = self.begin(prompt, 0)
        if index is not None:
            self.run({index: prompt[len(self.held[index].tokens) :]})
            self.end(index, keeps=True)

    @precondition(lambda self: self.held)
    @rule(sizes=st.lists(SIZES, min_size=8, max_size=8), random=st.randoms())
    def step(self, sizes, random):
        rows = {}
        for (index, held), size in zip(self.held.items(), sizes, strict=False):
            position = len(held.tokens)
            fed = held.prompt[position : position + size]
            if position >= len(held.prompt) and size:
                # a decode, or a verify whose drafts are mostly wrong
                drafts = [random.randrange(5, 2000) for _ in range(size % 5)]
                fed = [held.drawn.get(position - 1, 7), *drafts]
            fed = fed[: held.capacity - position]
            if fed:
                rows[index] = fed
        if rows:
            self.run(rows)

    def run(self, fed_to):
        """One step of these rows."""
        rows = {index: (len(self.held[index].tokens), fed) for index, fed in fed_to.items()}
        for index, drawn in step_through(self.engines, rows).items():
            position, fed = rows[index]
            self.held[index].tokens += fed
            self.held[index].drawn |= dict(enumerate(drawn, position))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 7), share=st.floats(0, 1))
    def truncate(self, which, share):
        index = list(self.held)[which % len(self.held)]
        held = self.held[index]
        self.check(held)
        end = int(share * len(held.tokens))
        for engine in self.engines:
            engine.truncate(index, end)
        held.prompt, held.tokens = held.tokens[:end] + held.prompt[end:], held.tokens[:end]
        held.drawn = {row: token for row, token in held.drawn.items() if row < end}

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 7), keeps=st.booleans())
    def close(self, which, keeps):
        self.end(list(self.held)[which % len(self.held)], keeps=keeps)

    @invariant()
    def budget_holds(self):
        for engine in self.engines:
            found = engine.statistics()
            assert found.kv_tokens_reserved == sum(held.capacity for held in self.held.values())
            assert found.kv_tokens_reserved + found.kv_tokens_cached <= KV_TOKENS

    def teardown(self):
        for index in list(self.held):
            self.end(index, keeps=True)

    def end(self, index, *, keeps):
        held = self.held.pop(index)
        self.check(held)
        for engine in self.engines:
            engine.close(index, keep=chain(held.tokens) if keeps else ())

    def check(self, held):
        if held.drawn:
            assert not self.unsplit.misdrawn(held.tokens, held.drawn)


class TestManySequences:
    def test_each_gets_the_tokens_it_would_get_alone(self, unsplit):
        model = unsplit("llama")
        specs = specs_of(model, kv_tokens=KV_TOKENS)

        class Machine(Sequences):
            pass

        Machine.loaded = [(spec, load_shard(spec)) for spec in specs]
        Machine.unsplit = model
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=20,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert Machine.opened >= SEQUENCES_MIN
        assert Machine.reused > SEQUENCES_MIN // 10


@pytest.mark.parametrize("name", ["llama", "mistral", "deepseek_v3"])
class TestPrefix:
    def test_tokens_after_a_reused_prefix_are_those_of_a_fresh_run(self, name, unsplit):
        engines = shards_of(unsplit(name))
        first, second = BASES[0][:200], [*BASES[0][:150], *prompt_of(60, seed=3)]
        for index, (prompt, reused) in enumerate([(first, 0), (second, 128), (first, 192)]):
            assert open_reusing(engines, index, prompt, 220) == reused
            rows = {index: (reused, prompt[reused:])}
            drawn = step_through(engines, rows)[index]
            assert drawn == unsplit(name).next_tokens(prompt)[reused:]
            tokens = [*prompt, drawn[-1]]
            (after,) = step_through(engines, {index: (len(prompt), drawn[-1:])})[index]
            assert after == unsplit(name).next_tokens(tokens)[-1]
            for engine in engines:
                engine.close(index, keep=chain(tokens))
        assert engines[0].statistics().reused_tokens == 128 + 192
        assert engines[0].statistics().kv_tokens_cached == 192 + 192

    def test_a_truncate_below_the_reused_rows_is_exact(self, name, unsplit):
        engines = shards_of(unsplit(name))
        prompt, other = BASES[0][:200], prompt_of(30, seed=4)
        for index, (reused, end) in enumerate([(0, 200), (192, 100), (192, 200)]):
            assert open_reusing(engines, index, prompt, 240) == reused
            step_through(engines, {index: (reused, prompt[reused:])})
            for engine in engines:
                engine.truncate(index, end)
            drawn = step_through(engines, {index: (end, other)})[index]
            assert drawn == unsplit(name).next_tokens(prompt[:end] + other)[end:]
            for engine in engines:
                engine.close(index, keep=chain(prompt[:end]))

    @pytest.mark.parametrize("capacity", [210, 600])
    def test_rows_taken_over_for_want_of_room_are_exact(self, name, capacity, unsplit):
        """600 does not fit the slot that held 210, so that the rows move."""
        engines = shards_of(unsplit(name), kv_tokens=600 if capacity == 600 else 220)
        prompt = BASES[0][:200]
        assert open_reusing(engines, 0, prompt, 210) == 0
        step_through(engines, {0: (0, prompt)})
        for engine in engines:
            engine.close(0, keep=chain(prompt))
        assert open_reusing(engines, 1, prompt, capacity) == 192
        assert engines[0].statistics().kv_tokens_cached == 0
        drawn = step_through(engines, {1: (192, prompt[192:])})[1]
        assert drawn == unsplit(name).next_tokens(prompt)[192:]


class TestPrefixOfTheEngine:
    def test_a_part_of_the_span_reuses_its_own_rows_only(self, unsplit):
        spec = spec_of(unsplit("llama").directory, 0, LAYERS, layers=LAYERS)
        engine = load(spec)
        for sequence_id, span, reused in ((0, (0, 2), 0), (1, (0, 3), 0), (2, (0, 2), 64)):
            found = engine.open(
                sequence_id,
                capacity_tokens=100,
                sampling=GREEDY,
                span=Span(*span),
                prefix=chain(BASES[0]),
            )
            assert found == reused
            engine.step([tokens_item(sequence_id, found, BASES[0][found:90])])
            engine.close(sequence_id, keep=chain(BASES[0])[:1])

    def test_penalties_count_no_token_of_reused_rows(self, unsplit):
        """A frequency penalty that would forbid what the prompt repeats, had it been drawn."""
        (engine,) = [load(spec_of(unsplit("llama").directory, 0, LAYERS, layers=LAYERS))]
        sampling = SamplingParameters.from_floats(temperature=0.0, frequency_penalty=2.0)
        expected = unsplit("llama").next_tokens(BASES[0][:130])[-1]
        prompt = [*BASES[0][:130]]
        for index, reused in ((0, 0), (1, 128)):
            assert open_reusing([engine], index, prompt, 140, sampling=sampling) == reused
            (drawn,) = engine.step([tokens_item(index, reused, prompt[reused:])])
            assert drawn.tokens.tolist() == [expected]
            engine.close(index, keep=chain(prompt))

    def test_a_closing_keeps_no_more_than_the_rows_there_are(self, unsplit):
        engine = load(spec_of(unsplit("llama").directory, 0, LAYERS, layers=LAYERS))
        engine.open(0, capacity_tokens=200, sampling=GREEDY)
        engine.step([tokens_item(0, 0, BASES[0][:127])])
        engine.close(0, keep=chain(BASES[0]))
        assert engine.statistics().kv_tokens_cached == 64
        assert engine.open(1, capacity_tokens=200, sampling=GREEDY, prefix=chain(BASES[0])) == 64


class ShortOfMemory(torch.nn.Module):
    """A stack that runs its layers and then, when told to, asks for more memory than there is."""

    def __init__(self, stack):
        super().__init__()
        self.stack = stack
        self.bytes_wanted = 0
        self.fault = None

    def forward(self, hidden, *arguments):
        rows = self.stack(hidden, *arguments)
        if self.fault is not None:
            raise self.fault
        if self.bytes_wanted:
            torch.empty(self.bytes_wanted, dtype=torch.uint8)
        return rows


class TestOutOfMemory:
    @pytest.fixture
    def engine(self, unsplit):
        spec = spec_of(
            unsplit("llama").directory, 0, LAYERS, layers=LAYERS, compute_dtype=ComputeDtype.FP32
        )
        shard = load_shard(spec)
        self.stack = ShortOfMemory(shard.stack)
        engine = TorchEngine(spec, replace(shard, stack=self.stack))
        for sequence_id in (0, 1):
            engine.open(sequence_id, capacity_tokens=100, sampling=GREEDY)
        engine.step([tokens_item(0, 0, BASES[0][:40])])
        return engine

    def test_a_step_without_memory_leaves_every_sequence_and_the_next_one_works(
        self, engine, unsplit
    ):
        batch = [
            tokens_item(0, 40, BASES[0][40:45], wanted=5),
            tokens_item(7, 0, [5]),
            tokens_item(1, 0, BASES[1][:20], wanted=20),
        ]
        self.stack.bytes_wanted = 2**60
        first, refused, second = engine.step(batch)
        assert type(first) is type(second) is EngineError
        assert "memory" in str(first)
        assert isinstance(refused, StepInvalid)
        self.stack.bytes_wanted = 0
        first, _, second = engine.step(batch)
        assert isinstance(first, StepResult)
        expected = [unsplit("llama").next_tokens(rows) for rows in (BASES[0][:45], BASES[1][:20])]
        assert first.tokens.tolist() == expected[0][40:]
        assert second.tokens.tolist() == expected[1]

    def test_a_fault_of_ours_is_not_taken_for_that_but_leaves_the_sequences_too(
        self, engine, unsplit
    ):
        self.stack.fault = RuntimeError("shapes do not fit")
        with pytest.raises(RuntimeError, match="shapes"):
            engine.step([tokens_item(0, 40, [5])])
        self.stack.fault = None
        (after,) = engine.step([tokens_item(0, 40, BASES[0][40:42])])
        assert after.tokens.tolist() == unsplit("llama").next_tokens(BASES[0][:42])[-1:]
