"""int8 and int4 against the weights they stand for, turned back into fp32."""

import numpy as np
import pytest

from tests.node.engine.torch_cases import LAYERS, load_unsplit, make_unsplit, prompt_of, torch

# after torch_cases, which skips this module where torch is not installed
from node.engine.base import ComputeDtype, Output, StepItem, StepResult  # isort: skip
from node.engine.torch_backend import load  # isort: skip
from node.engine.torch_backend.linear import held_bytes  # isort: skip
from node.engine.torch_backend.prepack import LinearMaker  # isort: skip
from node.engine.torch_backend.quantized import (  # isort: skip
    INT4_GROUP,
    INT4_KERNEL_ROWS_MAX,
    INT8_KERNEL_ROWS_MAX,
    ROUND_WEIGHTS,
    FBGEMM_ENGINES,
    KernelInt8Linear,
    PlanesInt8Linear,
    make_int4,
    make_int8,
    round_to_int4,
    round_to_int8,
)
from protocol.tensor import WireDtype  # isort: skip
from tests.node.engine.engine_cases import GREEDY, spec_of, tokens_item  # isort: skip

QUANTIZED = (ComputeDtype.INT8, ComputeDtype.INT4)
SHAPES = [(128, 64), (130, 100), (6, 4), (256, 512), (ROUND_WEIGHTS // 4096 + 70, 4096)]
"""(out_features, in_features): a kernel's own, odd ones, tiny ones, several groups, pieces."""
ROWS = [1, 2, INT8_KERNEL_ROWS_MAX, INT8_KERNEL_ROWS_MAX + 1, INT4_KERNEL_ROWS_MAX + 1]
BF16_ERROR = 5e-3

has_planes = pytest.mark.skipif(
    torch.backends.quantized.engine not in FBGEMM_ENGINES, reason="torch has no FBGEMM here"
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def turned_back(weight, dtype):
    """What quantized weights stand for, in fp32."""
    if dtype is ComputeDtype.INT8:
        values, scales = round_to_int8(weight)
        return values.float() * scales[:, None]
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -inputs % INT4_GROUP))
    values, scales = round_to_int4(padded)
    scale, zero = scales.float().permute(2, 1, 0).unsqueeze(-1)
    groups = (values - 8).float().view(outputs, -1, INT4_GROUP)
    return (groups * scale + zero).view(outputs, -1)[:, :inputs]


def error_of(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def planes_of_narrow_units(weight, bias):
    return PlanesInt8Linear(weight, bias, levels=63)


CASES = [
    pytest.param(make_int8, ComputeDtype.INT8, id="int8"),
    pytest.param(KernelInt8Linear, ComputeDtype.INT8, id="int8-kernel"),
    pytest.param(planes_of_narrow_units, ComputeDtype.INT8, id="int8-63", marks=has_planes),
    pytest.param(make_int4, ComputeDtype.INT4, id="int4"),
]


class TestLinears:
    @pytest.mark.parametrize(("make", "dtype"), CASES)
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("has_bias", [False, True])
    def test_rows_are_multiplied_by_the_weights_it_stands_for(self, make, dtype, shape, has_bias):
        random = torch.Generator().manual_seed(1)
        weight = (torch.randn(shape, generator=random) * 0.05).bfloat16()
        bias = torch.randn(shape[0], generator=random).bfloat16() if has_bias else None
        module = make(weight, bias)
        for rows in ROWS:
            given = torch.randn(rows, shape[1], generator=random).bfloat16()
            expected = given.double() @ turned_back(weight, dtype).double().T
            expected += 0 if bias is None else bias.double()
            for row_dtype in (torch.bfloat16, torch.float32):
                found = module(given.to(row_dtype))
                assert found.dtype is row_dtype
                assert error_of(found, expected) < BF16_ERROR
            assert torch.equal(module(given.unsqueeze(0)), module(given).unsqueeze(0))

    @pytest.mark.parametrize(("make", "dtype"), CASES)
    def test_row_is_the_same_whatever_lies_beside_it(self, make, dtype):
        random = torch.Generator().manual_seed(2)
        module = make((torch.randn(128, 256, generator=random) * 0.05).bfloat16(), None)
        given = torch.randn(INT4_KERNEL_ROWS_MAX + 8, 256, generator=random).bfloat16()
        given[5] *= 1000  # a neighbour that any scale shared with it would be ruined by
        together = module(given)
        for row in (0, 4, 5, 6, 40):
            assert error_of(together[row], module(given[row : row + 1])[0]) < BF16_ERROR

    @has_planes
    def test_planes_are_bit_identical_in_every_batch(self):
        module = PlanesInt8Linear(torch.randn(64, 320) * 0.05, None)
        given = torch.randn(70, 320)
        together = module(given)
        for start, end in ((0, 1), (3, 10), (20, 70)):
            assert torch.equal(together[start:end], module(given[start:end]))

    @has_planes
    @pytest.mark.parametrize(("levels", "limit"), [(127, 5e-5), (63, 2e-4)])
    def test_planes_keep_more_of_a_row_than_bf16_does(self, levels, limit):
        weight = torch.randn(128, 512) * 0.05
        given = torch.randn(4, 512)
        expected = given.double() @ turned_back(weight, ComputeDtype.INT8).double().T
        found = PlanesInt8Linear(weight, None, levels=levels)(given)
        assert error_of(found, expected) < limit

    @has_planes
    def test_extreme_products_do_not_saturate(self):
        """All weights and rows at their largest: the sums that narrow units would cut off."""
        for sign in (1, -1):
            weight, given = torch.full((64, 4096), 1.0), torch.full((3, 4096), float(sign))
            for levels in (None, 63):
                found = PlanesInt8Linear(weight, None, levels=levels)(given)
                torch.testing.assert_close(found, torch.full((3, 64), 4096.0 * sign))

    @pytest.mark.parametrize(("make", "dtype"), CASES)
    def test_rows_of_nan_or_infinity_stay_visible_and_alone(self, make, dtype):
        module = make((torch.randn(64, 64) * 0.05).bfloat16(), None)
        given = torch.randn(5, 64).bfloat16()
        sound = module(given)
        given[1, 7], given[3, 0] = float("nan"), float("inf")
        found = module(given)
        assert not found[1].isfinite().any()
        assert not found[3].isfinite().all()
        assert torch.equal(found[[0, 2, 4]], sound[[0, 2, 4]])

    @pytest.mark.parametrize(("make", "dtype"), CASES)
    def test_rows_and_weights_of_zero_give_zero(self, make, dtype):
        weight = torch.randn(64, 128).bfloat16()
        weight[3] = 0
        module = make(weight, None)
        assert not module(torch.zeros(2, 128).bfloat16()).any()
        assert not module(torch.randn(2, 128).bfloat16())[:, 3].any()

    @pytest.mark.parametrize(("dtype", "limit"), [(QUANTIZED[0], 0.01), (QUANTIZED[1], 0.1)])
    def test_weights_are_rounded_to_the_nearest(self, dtype, limit):
        weight = torch.randn(64, 256)
        before = weight.clone()
        found = turned_back(weight, dtype)
        assert torch.equal(weight, before)
        assert error_of(found, weight) < limit
        step = (weight.view(64, -1, 64).amax(-1) - weight.view(64, -1, 64).amin(-1)).max() / 15
        worst = {ComputeDtype.INT8: weight.abs().max() / 127, ComputeDtype.INT4: step}[dtype]
        # bf16 scales and zeros cost a little at the ends of a group's range
        assert (found - weight).abs().max() < 0.6 * worst

    @pytest.mark.parametrize(("dtype", "share"), [(QUANTIZED[0], 0.51), (QUANTIZED[1], 0.285)])
    def test_held_bytes(self, dtype, share):
        weight = torch.randn(256, 1024).bfloat16()
        maker = LinearMaker(dtype, weight_bytes=0, spare_bytes=0)
        assert maker.packs
        assert held_bytes(maker.make([weight], [None])) == pytest.approx(
            share * weight.nbytes, rel=0.02
        )


@pytest.fixture(scope="module", params=["llama-untied", "qwen2", "phi3", "qwen3_moe"])
def unsplit(request, tmp_path_factory):
    return make_unsplit(tmp_path_factory.mktemp("models"), request.param)


def quantized_hidden(unsplit, dtype, tokens):
    """(tokens, hidden_size) after all layers but the last, by transformers with rounded weights."""
    model = load_unsplit(unsplit.directory, torch.bfloat16)
    layers = model.model.layers
    with torch.inference_mode():
        for module in layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data = turned_back(module.weight, dtype)
            for name in ("gate_up_proj", "down_proj"):
                experts = getattr(module, name, None)
                if isinstance(experts, torch.nn.Parameter):
                    experts.data = torch.stack([turned_back(one, dtype) for one in experts])
        model = model.float()
        seen = []
        layers[LAYERS - 1].register_forward_pre_hook(lambda _, rows: seen.append(rows[0]))
        model(torch.tensor([tokens]))
    return seen[0][0].numpy()


def hidden_of(engine, prompts):
    """Each prompt's hidden states from one ragged batch, in chunks of 7 rows and single ones."""
    found = [[] for _ in prompts]
    for index in range(len(prompts)):
        engine.open(index, capacity_tokens=128, sampling=GREEDY)
    ends = [[*range(0, len(prompt) - 3, 7), *range(len(prompt) - 3, len(prompt) + 1)]
            for prompt in prompts]  # fmt: skip
    while any(len(marks) > 1 for marks in ends):
        batch = []
        for index, marks in enumerate(ends):
            if len(marks) > 1:
                rows = prompts[index][marks[0] : marks[1]]
                batch.append(
                    tokens_item(index, marks.pop(0), rows, wanted=len(rows), output=Output.HIDDEN)
                )
        for item, result in zip(batch, engine.step(batch), strict=True):
            assert isinstance(result, StepResult), result
            found[item.sequence_id].append(result.hidden)
    for index in range(len(prompts)):
        engine.close(index)
    return [np.concatenate(parts) for parts in found]


class TestShards:
    @pytest.mark.parametrize("dtype", QUANTIZED)
    def test_equals_transformers_with_the_same_rounded_weights(self, unsplit, dtype):
        spec = spec_of(unsplit.directory, 0, LAYERS - 1, layers=LAYERS, compute_dtype=dtype)
        engine = load(spec)
        is_moe = engine.info.family == "qwen3_moe"
        prompts = [prompt_of(length, seed=length) for length in (30, 11, 24)]
        together = hidden_of(engine, prompts)
        (alone,) = hidden_of(engine, prompts[1:2])
        assert error_of(torch.tensor(together[1]), torch.tensor(alone)) < 0.02
        for prompt, found in zip(prompts, together, strict=True):
            expected = quantized_hidden(unsplit, dtype, prompt)
            errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
            # A random router is often undecided: rounding then sends some rows to other experts.
            assert np.median(errors) < 0.03
            assert is_moe or errors.max() < 0.05

    def test_weights_take_their_share_of_memory(self, unsplit):
        held = {
            dtype: load(spec_of(unsplit.directory, 1, 3, layers=LAYERS, compute_dtype=dtype))
            .info.weight_bytes
            for dtype in (ComputeDtype.BF16, *QUANTIZED)
        }  # fmt: skip
        # tiny matrices: scales weigh more and int4 pads; routers and norms stay bf16
        assert held[ComputeDtype.INT8] < 0.65 * held[ComputeDtype.BF16]
        assert held[ComputeDtype.INT4] < 0.55 * held[ComputeDtype.BF16]

    @pytest.mark.parametrize("dtype", QUANTIZED)
    def test_head_draws_tokens_and_takes_hidden_states(self, unsplit, dtype):
        last = load(spec_of(unsplit.directory, 3, LAYERS, layers=LAYERS, compute_dtype=dtype))
        last.open(1, capacity_tokens=16, sampling=GREEDY)
        rows = np.random.default_rng(0).normal(size=(5, last.info.hidden_size))
        item = StepItem(
            1, 0, count=5, wanted=5, output=Output.TOKENS, wire_dtype=WireDtype.FP32,
            hidden=rows.astype(np.float32),
        )  # fmt: skip
        (result,) = last.step([item])
        assert isinstance(result, StepResult), result
        assert len(result.tokens) == 5
