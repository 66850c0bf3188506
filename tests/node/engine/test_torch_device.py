"""The device a shard is asked for: refused by name where it is not, the same tokens where it is.

The layers' code is the same on every device. What runs here without a GPU is the choice and the
refusals; the tests that compute on CUDA or MPS run only where there is one.
"""

import pytest

from tests.node.engine.torch_cases import (
    LAYERS,
    generate_together,
    make_unsplit,
    prompt_of,
    torch,
)

# after torch_cases, which skips this module where torch is not installed
from node.engine.base import ComputeDtype  # isort: skip
from node.engine.errors import BackendMissing, ModelUnsupported  # isort: skip
from node.engine.torch_backend import load  # isort: skip
from node.engine.torch_backend.device import resolve_device  # isort: skip
from tests.node.engine.engine_cases import cuts, spec_of  # isort: skip

ACCELERATORS = [
    *(["cuda"] if torch.cuda.is_available() else []),
    *(["mps"] if torch.backends.mps.is_available() else []),
]
FASTEST = [*ACCELERATORS, "cpu"][0]

needs_accelerator = pytest.mark.skipif(not ACCELERATORS, reason="no CUDA or MPS device is here")


@pytest.fixture(scope="module", params=["llama", "mistral"])
def unsplit(request, tmp_path_factory):
    torch.set_num_threads(1)
    return make_unsplit(tmp_path_factory.mktemp("models"), request.param)


class TestResolveDevice:
    @pytest.mark.parametrize("dtype", ComputeDtype)
    def test_auto_is_the_fastest_that_computes_in_the_dtype(self, dtype):
        is_quantized = dtype in (ComputeDtype.INT8, ComputeDtype.INT4)
        assert resolve_device("auto", dtype).type == ("cpu" if is_quantized else FASTEST)
        assert resolve_device("cpu", dtype).type == "cpu"

    @pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "CPU", "cpu:0", "cuda:100"])
    def test_unknown_kind_is_refused(self, name):
        with pytest.raises(BackendMissing, match="no kind of device"):
            resolve_device(name, ComputeDtype.FP32)

    @pytest.mark.parametrize("name", ["cuda", "cuda:99", "mps"])
    def test_device_that_is_not_here_is_refused_by_name_with_what_is(self, name):
        if name in ACCELERATORS:
            pytest.skip("it is here")
        with pytest.raises(BackendMissing, match=f"'{name}'") as caught:
            resolve_device(name, ComputeDtype.BF16)
        assert "cpu" in caught.value.hint

    @pytest.mark.parametrize("dtype", [ComputeDtype.INT8, ComputeDtype.INT4])
    @pytest.mark.parametrize("name", ["cuda", "mps"])
    def test_quantized_weights_elsewhere_are_refused_by_name(self, name, dtype):
        with pytest.raises(ModelUnsupported, match=f"{dtype}.*{name}"):
            resolve_device(name, dtype)


class TestLoad:
    def test_missing_device_is_refused_before_a_weight_is_read(self, unsplit, tmp_path):
        (tmp_path / "config.json").write_bytes((unsplit.directory / "config.json").read_bytes())
        with pytest.raises(BackendMissing):
            load(spec_of(tmp_path, 0, LAYERS, layers=LAYERS, device="cuda:99"))

    def test_cpu_by_name(self, unsplit):
        engine = load(spec_of(unsplit.directory, 0, LAYERS, layers=LAYERS, device="cpu"))
        prompt = prompt_of(9)
        assert generate_together([engine], [prompt], 6) == [unsplit.generate(prompt, 6)]

    @needs_accelerator
    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize("device", ACCELERATORS or ["none"])
    def test_ragged_batch_on_an_accelerator_gives_the_unsplit_tokens(self, device, count, unsplit):
        shards = [
            load(spec_of(unsplit.directory, start, end, layers=LAYERS, device=device))
            for start, end in cuts(LAYERS, count)
        ]
        prompts = [prompt_of(length, seed=length) for length in (5, 17, 40)]
        found = generate_together(shards, prompts, 12)
        assert found == [unsplit.generate(prompt, 12) for prompt in prompts]

    @needs_accelerator
    @pytest.mark.parametrize("device", ACCELERATORS or ["none"])
    def test_route_over_an_accelerator_and_the_cpu(self, device, unsplit):
        shards = [
            load(spec_of(unsplit.directory, 0, 2, layers=LAYERS, device=device)),
            load(spec_of(unsplit.directory, 2, LAYERS, layers=LAYERS, device="cpu")),
        ]
        prompt = prompt_of(20)
        assert generate_together(shards, [prompt], 8) == [unsplit.generate(prompt, 8)]
