"""What a loaded shard does not hold: mappings of weight files, and memory that was freed."""

import sys

import pytest

from node.engine.base import ComputeDtype
from tests.node.engine.engine_cases import GREEDY, spec_of, tokens_item
from tests.node.engine.torch_cases import LAYERS, prompt_of, torch

# after torch_cases, which skips this module where torch is not installed
from node.engine.torch_backend import load  # isort: skip
from node.engine.torch_backend.heap import addresses_of, give_back_freed, own_weights  # isort: skip
from tools.tiny_checkpoints import make_checkpoint  # isort: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("compute_dtype", ComputeDtype)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "deepseek_v3", "gemma2"])
def test_no_weight_file_stays_mapped_and_it_may_go(name, compute_dtype, tmp_path):
    directory = make_checkpoint(tmp_path / name, name, layers=LAYERS)
    spec = spec_of(directory, 0, LAYERS, layers=LAYERS, compute_dtype=compute_dtype)
    engine = load(spec)
    with open("/proc/self/maps") as maps:
        assert not [line for line in maps if str(directory) in line]
    for file in directory.glob("*.safetensors"):
        file.write_bytes(b"")  # whoever still reads there dies of it
    engine.open(0, capacity_tokens=64, sampling=GREEDY)
    (result,) = engine.step([tokens_item(0, 0, prompt_of(40))])
    assert len(result.tokens) == 1


class TestOwnWeights:
    def test_tied_weights_stay_one_and_others_are_let_be(self):
        loaded = torch.nn.Linear(4, 4, bias=False)
        parts = torch.nn.ModuleList(torch.nn.Linear(4, 4, bias=False) for _ in range(3))
        parts[0].weight.data = loaded.weight.data
        parts[1].weight.data = loaded.weight.data[2:]
        own = parts[2].weight.data_ptr()
        parts.register_buffer("tied", loaded.weight.data)
        own_weights(parts, addresses_of(loaded))
        low = loaded.weight.data_ptr()
        for tensor in (parts[0].weight, parts[1].weight, parts.tied):
            assert not low <= tensor.data_ptr() < low + loaded.weight.nbytes
        assert parts[0].weight.data_ptr() == parts.tied.data_ptr()
        assert torch.equal(parts[1].weight, loaded.weight[2:])
        assert parts[2].weight.data_ptr() == own


def test_giving_back_is_harmless():
    rows = torch.ones(1000)
    give_back_freed()
    assert rows.sum() == 1000
