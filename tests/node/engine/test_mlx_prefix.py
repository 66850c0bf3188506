"""Rows of closed sequences, opened again on the MLX engine: the tokens of a fresh run."""

import hashlib

import numpy as np
import pytest

from node.engine.base import PREFIX_BLOCK_TOKENS as BLOCK
from node.engine.errors import OutOfKV
from node.engine.mlx_backend import load
from protocol.route import Span
from tests.node.engine.engine_cases import GREEDY, spec_of, tokens_item
from tests.node.engine.mlx_cases import mx
from tests.node.engine.torch_cases import LAYERS, Models, prompt_of, step_through, torch

PROMPT = prompt_of(200, seed=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    return Models(tmp_path_factory.mktemp("models"))


def shards_of(unsplit, **fields):
    """Two shards that tile the model."""
    bounds = ((0, 1), (1, LAYERS))
    return [load(spec_of(unsplit.directory, *span, layers=LAYERS, **fields)) for span in bounds]


def chain(tokens):
    """A hash a block over all the tokens up to its end."""
    return [
        hashlib.blake2b(np.asarray(tokens[:end], np.int32).tobytes(), digest_size=16).digest()
        for end in range(BLOCK, len(tokens) + 1, BLOCK)
    ]


def open_all(engines, sequence_id, prompt, capacity=240, **fields):
    options = {"capacity_tokens": capacity, "sampling": GREEDY, "prefix": chain(prompt), **fields}
    (reused,) = {engine.open(sequence_id, **options) for engine in engines}
    return reused


def close_all(engines, sequence_id, tokens):
    for engine in engines:
        engine.close(sequence_id, keep=chain(tokens))


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "deepseek_v3"])
class TestPrefix:
    def test_tokens_after_a_reused_prefix_are_those_of_a_fresh_run(self, name, models):
        unsplit = models.unsplit(name)
        engines = shards_of(unsplit)
        other = [*PROMPT[:150], *prompt_of(50, seed=3)]
        for index, (prompt, reused) in enumerate([(PROMPT, 0), (other, 128), (PROMPT, 192)]):
            assert open_all(engines, index, prompt) == reused
            drawn = step_through(engines, {index: (reused, prompt[reused:])})[index]
            assert drawn == unsplit.next_tokens(prompt)[reused:]
            close_all(engines, index, prompt)
        for engine in engines:
            assert engine.statistics().reused_tokens == 128 + 192
            assert engine.statistics().kv_tokens_cached == 192 + 192

    def test_two_at_once_share_rows_and_neither_spoils_the_others(self, name, models):
        unsplit = models.unsplit(name)
        engines = shards_of(unsplit)
        open_all(engines, 0, PROMPT)
        step_through(engines, {0: (0, PROMPT)})
        close_all(engines, 0, PROMPT)
        held = {1: PROMPT[:140], 2: [*PROMPT[:130], *prompt_of(9, seed=5)], 3: list(PROMPT)}
        reused = {index: open_all(engines, index, tokens) for index, tokens in held.items()}
        assert reused == {1: 128, 2: 128, 3: 192}
        rows = {index: (reused[index], tokens[reused[index] :]) for index, tokens in held.items()}
        for _ in range(2):
            drawn = step_through(engines, rows)
            for index, tokens in held.items():
                start = rows[index][0]
                assert drawn[index] == unsplit.next_tokens(tokens)[start:]
                rows[index] = (len(tokens), drawn[index][-1:])
                held[index] = [*tokens, drawn[index][-1]]

    def test_a_truncate_below_the_reused_rows_leaves_the_kept_ones(self, name, models):
        unsplit = models.unsplit(name)
        engines = shards_of(unsplit)
        other = prompt_of(30, seed=4)
        for index, reused in enumerate([0, 192, 192]):
            assert open_all(engines, index, PROMPT) == reused
            step_through(engines, {index: (reused, PROMPT[reused:])})
            if index == 1:
                for engine in engines:
                    engine.truncate(index, 100)
                drawn = step_through(engines, {index: (100, other)})[index]
                assert drawn == unsplit.next_tokens(PROMPT[:100] + other)[100:]
                close_all(engines, index, PROMPT[:100] + other)
            else:
                close_all(engines, index, PROMPT)


class TestRoom:
    def test_kept_rows_give_way_to_openings(self, models):
        engine = load(spec_of(models.unsplit("llama").directory, 0, 1, layers=9, kv_tokens=300))
        mx.clear_cache()
        before = mx.get_active_memory()
        engine.open(0, capacity_tokens=200, sampling=None)
        engine.step([tokens_item(0, 0, PROMPT, output="hidden")])
        engine.close(0, keep=chain(PROMPT))
        statistics = engine.statistics()
        assert (statistics.kv_tokens_reserved, statistics.kv_tokens_cached) == (0, 192)
        held = mx.get_active_memory() - before
        assert held <= 1.15 * 192 * engine.info.kv_bytes_per_token
        engine.open(1, capacity_tokens=250, sampling=None)
        assert engine.statistics().kv_tokens_cached == 0
        assert mx.get_active_memory() - before <= 4096
        with pytest.raises(OutOfKV):
            engine.open(2, capacity_tokens=51, sampling=None, prefix=chain(PROMPT))

    def test_rows_taken_over_for_want_of_room_are_exact(self, models):
        unsplit = models.unsplit("llama")
        engines = shards_of(unsplit, kv_tokens=220)
        open_all(engines, 0, PROMPT, 210)
        step_through(engines, {0: (0, PROMPT)})
        close_all(engines, 0, PROMPT)
        assert open_all(engines, 1, PROMPT, 220) == 192
        assert engines[0].statistics().kv_tokens_cached == 0
        drawn = step_through(engines, {1: (192, PROMPT[192:])})[1]
        assert drawn == unsplit.next_tokens(PROMPT)[192:]

    def test_a_part_of_the_span_reuses_its_own_rows_only(self, models):
        engine = load(spec_of(models.unsplit("llama").directory, 0, LAYERS, layers=LAYERS))
        for index, (span, reused) in enumerate([((0, 2), 0), ((0, 3), 0), ((0, 2), 64)]):
            found = open_all([engine], index, PROMPT[:90], 100, span=Span(*span))
            assert found == reused
            engine.step([tokens_item(index, found, PROMPT[found:90])])
            close_all([engine], index, PROMPT[:90])
