"""Capped scores, sinks and latents over ragged rows, against the formula in plain words."""

from functools import partial

import pytest

from tests.node.engine.torch_cases import torch

# after torch_cases, which skips this module where torch is not installed
from node.engine.torch_backend.attention import PackedStep, sort_for_packing  # isort: skip
from node.engine.torch_backend.kernels import (  # isort: skip
    capped_attention,
    latent_attention,
    sink_attention,
)
from node.engine.torch_backend.kv import KVStore  # isort: skip
from node.engine.torch_backend.latent import LatentProjection  # isort: skip

HEADS, KV_HEADS, DIM, ROPE = 4, 2, 16, 6
SCALE = 0.4
LENGTHS = [9, 0, 30, 61, 2, 17, 100, 5, 64]
COUNTS = [1, 50, 1, 1, 5, 1, 1, 1, 40]
"""Groups with holes, long prefills from the start and from the middle, short verifies."""


def attend_in_pieces(kernel, sequences, window, *, kv_heads, key_dim, value_dim, dtype):
    """What PackedStep makes of (query, key, value) triples, of each the rows after LENGTHS."""
    store = KVStore(
        layers=1,
        kv_heads=kv_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        dtype=dtype,
        kv_tokens=4096,
    )
    opened = [store.open(200) for _ in sequences]
    for kv, (_, key, value), length in zip(opened, sequences, LENGTHS, strict=True):
        kv.slab.keys[0, kv.slot, :, :length] = key[:length].transpose(0, 1)
        kv.slab.values[0, kv.slot, :, :length] = value[:length].transpose(0, 1)
        kv.length = length
    items = list(zip(opened, COUNTS, strict=True))
    order = sort_for_packing(items)
    step = PackedStep([items[index] for index in order], first_layer=3)
    packed = [
        torch.cat([sequences[index][part][LENGTHS[index] :] for index in order])
        for part in range(3)
    ]
    found = step.attend(3, *packed, scaling=SCALE, window=window, kernel=kernel)
    parts = dict(zip(order, found.split([COUNTS[index] for index in order]), strict=True))
    return [parts[index] for index in range(len(items))]


def plain(query, key, value, window, *, cap=None, sinks=None):
    """(rows, heads, value_dim) of one sequence from row 0, in fp64."""
    group = query.shape[1] // key.shape[1]
    key, value = (part.double().repeat_interleave(group, 1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query.double(), key) * SCALE
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    distance = torch.arange(len(query))[:, None] - torch.arange(len(query))[None, :]
    scores = scores.masked_fill((distance < 0) | (distance >= (window or len(query))), -torch.inf)
    if sinks is not None:
        beside = sinks.double()[:, None, None].expand(-1, len(query), 1)
        scores = torch.cat((scores, beside), dim=-1)
    weights = scores.softmax(-1)[..., : len(query)]
    return torch.einsum("hqk,khd->qhd", weights, value).float()


def made_sequences(*dims, dtype=torch.float32):
    """Per sequence one random (rows, heads, dim) tensor for each of the (heads, dim) given."""
    random = torch.Generator().manual_seed(3)
    return [
        [torch.randn(length + count, *shape, generator=random).to(dtype) for shape in (dims)]
        for length, count in zip(LENGTHS, COUNTS, strict=True)
    ]


@pytest.mark.parametrize(
    ("window", "scores_max"),
    [(None, 2**24), (3, 2**24), (40, 2**24), (None, 3000), (40, 700)],
    ids=str,
)
class TestKernels:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("kind", ["cap", "sinks"])
    def test_capped_scores_and_sinks(self, kind, window, scores_max, dtype):
        sinks = torch.tensor([-1.0, 0.5, 2.0, 4.0])
        kernel, extra = {
            "cap": (partial(capped_attention, cap=1.5), {"cap": 1.5}),
            "sinks": (partial(sink_attention, sinks=sinks), {"sinks": sinks}),
        }[kind]
        sequences = made_sequences((HEADS, DIM), (KV_HEADS, DIM), (KV_HEADS, DIM), dtype=dtype)
        found = attend_in_pieces(
            partial(kernel, scores_max=scores_max),
            sequences,
            window,
            kv_heads=KV_HEADS,
            key_dim=DIM,
            value_dim=DIM,
            dtype=dtype,
        )
        tolerance = 1e-5 if dtype is torch.float32 else 2e-2
        for rows, (query, key, value), length in zip(found, sequences, LENGTHS, strict=True):
            expected = plain(query, key, value, window, **extra)[length:]
            torch.testing.assert_close(rows.float(), expected, rtol=tolerance, atol=tolerance)

    def test_latents_are_as_good_as_the_keys_and_values_they_stand_for(self, window, scores_max):
        rank, key_dim, value_dim = 12, 8, 10
        random = torch.Generator().manual_seed(1)
        weight = torch.randn(HEADS * (key_dim + value_dim), rank, generator=random)
        projection = LatentProjection(weight, HEADS, key_dim)
        sequences = made_sequences((HEADS, key_dim + ROPE), (1, rank), (1, ROPE))
        moved = [
            (projection.into_latents(query.transpose(0, 1)).transpose(0, 1), latent, rotated)
            for query, latent, rotated in sequences
        ]
        found = attend_in_pieces(
            partial(latent_attention, scores_max=scores_max),
            moved,
            window,
            kv_heads=1,
            key_dim=rank,
            value_dim=ROPE,
            dtype=torch.float32,
        )
        for rows, (query, latent, rotated), length in zip(found, sequences, LENGTHS, strict=True):
            expanded = (latent @ weight.T).view(len(latent), HEADS, key_dim + value_dim)
            key = torch.cat((expanded[..., :key_dim], rotated.expand(-1, HEADS, -1)), dim=-1)
            expected = plain(query, key, expanded[..., key_dim:], window)[length:]
            torch.testing.assert_close(
                projection.out_of_latents(rows), expected, rtol=1e-4, atol=1e-4
            )
