"""MLX shards against the unsplit model in transformers, token for token, in fp32."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from node.engine.base import ComputeDtype, Output, StepItem, StepResult
from node.engine.errors import (
    BackendMissing,
    ModelNotFound,
    OutOfKV,
    ShardMismatch,
    StepInvalid,
)
from node.engine.mlx_backend import load
from node.engine.torch_backend import load as load_torch
from node.engine.worker import EngineWorker
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype
from tests.node.engine.engine_cases import GREEDY, Route, cuts, ends_of, spec_of, tokens_item
from tests.node.engine.mlx_cases import mx, relative_error

torch = pytest.importorskip("torch", reason="the reference is transformers on torch")
transformers = pytest.importorskip("transformers", reason="the reference is transformers")

TRAINED = Path(__file__).parents[3] / "node" / "assets" / "piecework-tiny"
LAYERS = 5
PROMPT = [int(token) for token in np.random.default_rng(7).integers(5, 2000, 90)]
"""Longer than the sliding window of 64, and no multiple of a chunk."""
COUNT = 20


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Directory and the unsplit model's greedy tokens, per family; made when asked."""
    from tools.tiny_checkpoints import make_checkpoint

    torch.set_num_threads(1)  # what load sets too; the cores are shared with other tests
    made = {}

    def make(name):
        if name not in made:
            directory = tmp_path_factory.mktemp("checkpoints") / name
            make_checkpoint(directory, name, layers=LAYERS)
            made[name] = (directory, unsplit_tokens(directory))
        return made[name]

    return make


@pytest.fixture(scope="module")
def llama(checkpoints):
    return checkpoints("llama")


def unsplit_model(directory, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def unsplit_tokens(directory):
    model, tokens = unsplit_model(directory), list(PROMPT)
    with torch.inference_mode():
        for _ in range(COUNT):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


def shards_of(directory, count, **fields):
    return [load(spec_of(directory, *cut, layers=LAYERS, **fields)) for cut in cuts(LAYERS, count)]


class TestExactness:
    @pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
    def test_a_sealed_route(self, checkpoints, family):
        directory, expected = checkpoints(family)
        ends = load(ends_of(directory))
        hops = [
            load(spec_of(directory, *span, embeds=False, has_head=False))
            for span in cuts(LAYERS, 2)
        ]
        assert Route([ends, *hops, ends]).generate(PROMPT, COUNT) == expected

    def test_one_weight_file_without_an_index(self, llama, tmp_path):
        directory, expected = llama
        unsplit_model(directory).save_pretrained(tmp_path)
        assert not (tmp_path / "model.safetensors.index.json").exists()
        assert Route(shards_of(tmp_path, 2)).generate(PROMPT, COUNT) == expected

    def test_sampled_tokens_are_those_of_torch(self, llama):
        directory, expected = llama
        sampling = SamplingParameters.from_floats(
            temperature=0.8, top_p=0.95, frequency_penalty=0.5, seed=11
        )
        spec = spec_of(directory, 0, LAYERS, layers=LAYERS)
        tokens = [
            Route([engine], sampling=sampling).generate(PROMPT, COUNT)
            for engine in (load(spec), load_torch(spec))
        ]
        assert tokens[0] == tokens[1] != expected

    def test_many_sequences_of_several_lengths_in_one_batch(self, llama):
        directory, expected = llama
        spec = spec_of(directory, 0, LAYERS, layers=LAYERS)
        engine, alone = load(spec), load(spec)
        prompts = [PROMPT, PROMPT[:5], PROMPT[7:40]]
        generated = [[], [], []]
        for sequence_id in range(3):
            engine.open(sequence_id, capacity_tokens=200, sampling=GREEDY)
        # The first sequence joins late, so prefill and decode share a batch.
        for turn in range(COUNT + 3):
            batch = []
            for sequence_id, prompt in enumerate(prompts):
                done = generated[sequence_id]
                if (sequence_id == 0 and turn < 3) or len(done) == COUNT:
                    continue
                rows = done[-1:] or prompt
                position = len(prompt) + len(done) - 1 if done else 0
                batch.append(tokens_item(sequence_id, position, rows))
            for item, result in zip(batch, engine.step(batch), strict=True):
                generated[item.sequence_id].append(int(result.tokens[0]))
        assert generated[0] == expected
        assert generated == [Route([alone]).generate(prompt, COUNT) for prompt in prompts]


class TestBf16:
    def test_it_is_as_near_to_fp32_as_torch_is(self, llama):
        directory, _ = llama
        exact = hidden_after_all_layers(load(spec_of(directory, 0, LAYERS, layers=0)))
        bf16 = spec_of(directory, 0, LAYERS, layers=0, compute_dtype=ComputeDtype.BF16)
        errors = {
            name: relative_error(hidden_after_all_layers(make(bf16)), exact)
            for name, make in (("mlx", load), ("torch", load_torch))
        }
        print(f"bf16 against fp32, relative error after {LAYERS} random layers: {errors}")
        assert errors["mlx"] < 2 * errors["torch"] < 0.2

    def test_bf16_on_the_wire_is_rounded_to_nearest_even(self, llama):
        directory, _ = llama
        engine = load(spec_of(directory, 0, LAYERS, layers=0))
        rows = {wire: hidden_after_all_layers(engine, wire) for wire in WireDtype}
        rounded = torch.from_numpy(rows[WireDtype.FP32]).to(torch.bfloat16)
        np.testing.assert_array_equal(rounded.view(torch.uint16).numpy(), rows[WireDtype.BF16])

    def test_the_trained_model_says_nearly_the_same_in_bf16(self):
        layers = json.loads((TRAINED / "config.json").read_text())["num_hidden_layers"]
        exact = load(spec_of(TRAINED, 0, layers, layers=layers))
        expected = next_tokens([exact])
        spans = cuts(layers, 3)
        fields = {"layers": layers, "compute_dtype": ComputeDtype.BF16}
        shards = [load(spec_of(TRAINED, *span, **fields)) for span in spans]
        agreed = np.mean(next_tokens(shards, WireDtype.BF16) == expected)
        print(f"trained model, bf16 in 3 shards against fp32: {agreed:.1%} of tokens agree")
        assert agreed > 0.9


def next_tokens(shards, wire=WireDtype.FP32):
    """The greedy token after every row of a text the model half knows."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TRAINED / "tokenizer.json"))
    text = "The try statement specifies exception handlers and cleanup code for a group of " * 6
    rows = tokenizer.encode(text).ids
    return Route(shards, wire=wire).step(0, rows, wanted=len(rows))


def hidden_after_all_layers(engine, wire=WireDtype.FP32):
    engine.open(10_000 + len(wire), capacity_tokens=100, sampling=None)
    item = tokens_item(
        10_000 + len(wire), 0, PROMPT, wanted=len(PROMPT), output=Output.HIDDEN, wire_dtype=wire
    )
    (result,) = engine.step([item])
    engine.close(10_000 + len(wire))
    assert result.hidden.flags.c_contiguous
    return result.hidden


class TestEngine:
    def test_info_and_budget(self, llama):
        directory, _ = llama
        engine = load(spec_of(directory, 1, 3, layers=LAYERS, kv_tokens=50))
        info = engine.info
        assert (info.backend, info.family, info.layers) == ("mlx", "llama", LAYERS)
        assert info.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
        torch_info = load_torch(spec_of(directory, 1, 3, layers=LAYERS)).info
        assert (info.weight_bytes, info.kv_bytes_per_token, info.context_tokens) == (
            torch_info.weight_bytes,
            torch_info.kv_bytes_per_token,
            torch_info.context_tokens,
        )
        engine.open(1, capacity_tokens=30, sampling=None)
        with pytest.raises(OutOfKV):
            engine.open(2, capacity_tokens=21, sampling=None)
        with pytest.raises(StepInvalid):
            engine.open(1, capacity_tokens=1, sampling=None)
        engine.close(1)
        engine.close(1)
        engine.open(2, capacity_tokens=50, sampling=None)
        assert engine.statistics().kv_tokens_reserved == 50

    def test_bad_items_leave_their_sequence_and_the_others_alone(self, llama):
        directory, expected = llama
        engine = load(spec_of(directory, 0, LAYERS, layers=LAYERS))
        for sequence_id in (1, 2):
            engine.open(sequence_id, capacity_tokens=len(PROMPT), sampling=GREEDY)
        nan = np.full((1, 64), np.nan, np.float32)
        bad = [
            tokens_item(1, 1, [3]),
            tokens_item(1, 0, [2048]),
            tokens_item(1, 0, [*PROMPT, 1]),
            tokens_item(9, 0, [1]),
            StepItem(1, 0, 1, 1, Output.HIDDEN, WireDtype.FP32, hidden=nan),
        ]
        for item in bad:
            refused, ran = engine.step([item, tokens_item(2, 0, [3])])
            assert isinstance(refused, StepInvalid)
            assert isinstance(ran, StepResult)
            engine.truncate(2, 0)
        first, twice = engine.step([tokens_item(1, 0, PROMPT), tokens_item(1, 0, [1])])
        assert first.tokens.tolist() == expected[:1]
        assert isinstance(twice, StepInvalid)
        with pytest.raises(StepInvalid):
            engine.truncate(1, len(PROMPT) + 1)

    def test_rows_that_nobody_wants(self, llama):
        directory, expected = llama
        engine = load(spec_of(directory, 0, LAYERS, layers=LAYERS))
        engine.open(1, capacity_tokens=200, sampling=GREEDY)
        (nothing,) = engine.step([tokens_item(1, 0, PROMPT[:-1], wanted=0)])
        assert nothing.tokens.shape == (0,)
        (result,) = engine.step([tokens_item(1, len(PROMPT) - 1, PROMPT[-1:])])
        assert result.tokens.tolist() == expected[:1]

    async def test_in_a_worker(self, llama):
        directory, expected = llama
        worker = await EngineWorker.start(
            spec_of(directory, 0, LAYERS, layers=LAYERS), backend="mlx"
        )
        await worker.open(1, capacity_tokens=200, sampling=GREEDY)
        (result,) = await worker.step([tokens_item(1, 0, PROMPT)])
        assert result.tokens.tolist() == expected[:1]
        await worker.stop()


class TestLoad:
    def test_only_the_needed_files_need_to_be_there(self, llama, tmp_path):
        directory, _ = llama
        weight_map = json.loads((directory / "model.safetensors.index.json").read_text())
        needed = {
            file
            for name, file in weight_map["weight_map"].items()
            if any(f"layers.{layer}." in name for layer in (2, 3))
        }
        for name in ("config.json", "model.safetensors.index.json", *needed):
            shutil.copy(directory / name, tmp_path)
        load(spec_of(tmp_path, 2, 4, layers=LAYERS))
        with pytest.raises(ShardMismatch, match="is missing"):
            load(spec_of(tmp_path, 0, 4, layers=LAYERS))

    def test_a_missing_tensor(self, llama, tmp_path):
        directory, _ = llama
        shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
        path = tmp_path / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        name = "model.layers.2.mlp.up_proj.weight"
        mlx_path = tmp_path / index["weight_map"][name]
        tensors = {key: value for key, value in mx.load(str(mlx_path)).items() if key != name}
        mx.save_safetensors(str(tmp_path / "model-other.safetensors"), tensors)
        index["weight_map"] = {
            key: "model-other.safetensors" if file == mlx_path.name else file
            for key, file in index["weight_map"].items()
            if key != name
        }
        path.write_text(json.dumps(index))
        load(spec_of(tmp_path, 0, 2, layers=LAYERS))
        with pytest.raises(ShardMismatch, match=r"1 tensors are missing, '.*up_proj\.weight'"):
            load(spec_of(tmp_path, 2, 4, layers=LAYERS))

    def test_weights_that_do_not_fit_the_config(self, llama, tmp_path):
        directory, _ = llama
        shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 100}))
        with pytest.raises(ShardMismatch, match="has shape"):
            load(spec_of(tmp_path, 0, 2, layers=LAYERS))

    def test_no_model(self, tmp_path):
        with pytest.raises(ModelNotFound):
            load(ends_of(tmp_path / "none"))
        with pytest.raises(ModelNotFound):
            load(ends_of(tmp_path))

    @pytest.mark.parametrize("device", ["auto", "cpu"])
    def test_a_device_that_is_here(self, llama, device):
        directory, expected = llama
        shards = shards_of(directory, 2, device=device)
        assert Route(shards).generate(PROMPT, 3) == expected[:3]

    @pytest.mark.parametrize("device", ["cuda", "mps", "cpu:1", ""])
    def test_a_device_of_another_kind_is_refused_by_name(self, llama, device):
        with pytest.raises(BackendMissing, match=f"no device '{device}'"):
            load(ends_of(llama[0], device=device))

    @pytest.mark.skipif(mx.is_available(mx.Device(mx.gpu)), reason="this machine has a GPU")
    def test_a_gpu_that_is_not_here_is_refused(self, llama):
        with pytest.raises(BackendMissing, match="no gpu on this machine"):
            load(ends_of(llama[0], device="gpu"))
