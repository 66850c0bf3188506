"""The torch backend's parts by themselves: KV slots, packed linears, fused layers."""

import numpy as np
import pytest

from tests.node.engine.torch_cases import LAYERS, load_unsplit, make_unsplit, torch

# after torch_cases, which skips this module where torch is not installed
from node.engine.torch_backend.attention import (  # isort: skip
    PackedStep,
    packed_attention,
    register_attention,
    sort_for_packing,
)
from node.engine.base import ComputeDtype  # isort: skip
from node.engine.errors import ModelUnsupported  # isort: skip
from node.engine.torch_backend.fused import FUSED_FAMILIES, FusedStack  # isort: skip
from node.engine.torch_backend.kv import KVStore  # isort: skip
from node.engine.torch_backend.linear import held_bytes  # isort: skip
from node.engine.torch_backend.prepack import (  # isort: skip
    FEW_ROWS_MAX,
    LinearMaker,
)
from node.engine.torch_backend.shard import FamilyStack  # isort: skip

KV_HEADS, HEADS, HEAD_DIM = 2, 4, 16


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)
    register_attention()


class TestPackedStep:
    @pytest.mark.parametrize("window", [None, 3, 40])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_ragged_rows_attend_as_each_sequence_would_alone(self, window, dtype):
        """Groups with holes, long prefills, short verifies: all against plain attention."""
        random = torch.Generator().manual_seed(5)
        store = KVStore(
            layers=1,
            kv_heads=KV_HEADS,
            key_dim=HEAD_DIM,
            value_dim=HEAD_DIM,
            dtype=dtype,
            kv_tokens=4096,
        )
        lengths = [9, 0, 30, 61, 2, 17, 100, 5, 64]
        counts = [1, 50, 1, 1, 5, 1, 1, 1, 40]
        sequences = [store.open(400) for _ in lengths]
        expected, items, fresh = [], [], []
        for sequence, length, count in zip(sequences, lengths, counts, strict=True):
            made = torch.randn(3, length + count, HEADS, HEAD_DIM, generator=random).to(dtype)
            query, key, value = made[0], made[1, :, :KV_HEADS], made[2, :, :KV_HEADS]
            sequence.slab.keys[0, sequence.slot, :, :length] = key[:length].transpose(0, 1)
            sequence.slab.values[0, sequence.slot, :, :length] = value[:length].transpose(0, 1)
            sequence.length = length
            items.append((sequence, count))
            fresh.append([part[length:] for part in (query, key, value)])
            expected.append(plain_attention(query, key, value, window)[length:])
        order = sort_for_packing(items)
        step = PackedStep([items[index] for index in order], first_layer=7)
        packed = [torch.cat([fresh[index][part] for index in order]) for part in range(3)]
        found = step.attend(7, *packed, scaling=0.25, window=window)
        wanted = torch.cat([expected[index] for index in order])
        tolerance = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=tolerance)

    def test_softcap_and_sinks_are_refused_rather_than_ignored(self):
        rows = torch.zeros(1, HEADS, 1, HEAD_DIM)
        for extra in ({"softcap": 50.0}, {"s_aux": torch.zeros(HEADS)}):
            with pytest.raises(ModelUnsupported):
                packed_attention(None, rows, rows, rows, None, scaling=1, packed_step=None, **extra)


def plain_attention(query, key, value, window):
    """(rows, heads, head_dim) of one sequence from row 0, in fp32 by the formula."""
    rows = len(query)
    key, value = (part.float().repeat_interleave(HEADS // KV_HEADS, 1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query.float(), key) * 0.25
    distance = torch.arange(rows)[:, None] - torch.arange(rows)[None, :]
    hidden = (distance < 0) | (distance >= (window or rows))
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


class TestLinearMaker:
    def test_packed_linear_is_bit_identical_from_four_rows_on(self):
        maker = LinearMaker(ComputeDtype.BF16, weight_bytes=0, spare_bytes=0)
        if not maker.packs:
            pytest.skip("this CPU has no bf16 kernels")
        weight = torch.randn(96, 64).to(torch.bfloat16)
        bias = torch.randn(96).to(torch.bfloat16)
        packed = maker.make([weight], [bias])
        for rows in (FEW_ROWS_MAX + 1, 8, 33):
            given = torch.randn(rows, 64).to(torch.bfloat16)
            assert torch.equal(packed(given), torch.nn.functional.linear(given, weight, bias))

    @pytest.mark.parametrize("rows", range(1, FEW_ROWS_MAX + 1))
    def test_few_rows_are_at_least_as_exact_as_bf16(self, rows):
        maker = LinearMaker(ComputeDtype.BF16, weight_bytes=0, spare_bytes=0)
        if not maker.packs:
            pytest.skip("this CPU has no bf16 kernels")
        weight = (torch.randn(96, 256) * 0.02).to(torch.bfloat16)
        given = torch.randn(rows, 256).to(torch.bfloat16)
        exact = given.double() @ weight.double().T
        error = (maker.make([weight], [None])(given) - exact).norm()
        plain = (torch.nn.functional.linear(given, weight) - exact).norm()
        assert error <= 1.05 * plain

    def test_weights_that_fp16_cannot_hold_get_no_fp16_copy(self):
        maker = LinearMaker(ComputeDtype.BF16, weight_bytes=0, spare_bytes=0)
        if not maker.packs:
            pytest.skip("this CPU has no bf16 kernels")
        weight = torch.full((16, 32), 1e6, dtype=torch.bfloat16)
        packed = maker.make([weight], [None])
        assert held_bytes(packed) == weight.nbytes
        assert torch.isfinite(packed(torch.ones(1, 32, dtype=torch.bfloat16))).all()

    def test_no_copy_where_memory_is_short(self):
        maker = LinearMaker(ComputeDtype.BF16, weight_bytes=2**30, spare_bytes=2**29)
        weight = torch.zeros(16, 32, dtype=torch.bfloat16)
        assert held_bytes(maker.make([weight], [None])) == weight.nbytes

    def test_joined_linears_give_their_outputs_end_to_end(self):
        maker = LinearMaker(ComputeDtype.FP32, weight_bytes=0, spare_bytes=0)
        first, second = torch.nn.Linear(8, 3, bias=False), torch.nn.Linear(8, 2)
        joined = maker.make([first.weight, second.weight], [first.bias, second.bias])
        given = torch.randn(4, 8)
        expected = torch.cat((first(given), second(given)), dim=-1)
        torch.testing.assert_close(joined(given), expected)


class TestFusedStack:
    @pytest.mark.parametrize("family", sorted(FUSED_FAMILIES))
    def test_equals_the_familys_own_layers(self, family, tmp_path):
        directory = make_unsplit(tmp_path, family).directory
        found, expected = (
            run_stack(family, directory, is_fused=is_fused) for is_fused in (True, False)
        )
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 2e-6


def run_stack(family, directory, *, is_fused):
    """Two steps of one sequence through all layers, fused or as the family wrote them."""
    dtype = torch.float32
    model = load_unsplit(directory, dtype)
    model.set_attn_implementation("piecework_packed")
    base, maker = model.model, LinearMaker(ComputeDtype.FP32, weight_bytes=0, spare_bytes=0)
    layers = list(base.layers)
    stack = (
        FusedStack(family, layers, base.rotary_emb, maker)
        if is_fused
        else FamilyStack(layers, base.rotary_emb, maker)
    )
    store = KVStore(
        layers=LAYERS,
        kv_heads=KV_HEADS,
        key_dim=HEAD_DIM,
        value_dim=HEAD_DIM,
        dtype=dtype,
        kv_tokens=64,
    )
    sequence = store.open(64)
    outputs = []
    with torch.inference_mode():
        for start, end in ((0, 30), (30, 34)):
            hidden = base.embed_tokens(torch.arange(start, end) * 31)
            step = PackedStep([(sequence, end - start)], first_layer=0)
            outputs.append(stack(hidden, torch.arange(start, end), step, slice(None)).float())
            sequence.length = end
    return torch.cat(outputs).numpy()
