"""Sessions whose activations travel in int8: the ring gives what its shards give by hand."""

import functools

import pytest

from node.engine.backends import load_engine
from node.engine.store import TINY_MODEL, build_manifest, resolve_model
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.flows.ring import PROMPT, RingModel, fake_model, make_ring, spans
from tests.node.engine.engine_cases import Route

HOPS = 3
MAX_TOKENS = 24
INT8 = (WireDtype.INT8B32, WireDtype.INT8B32H)


def tiny_model(directory):
    pytest.importorskip("torch", reason="the torch backend is not installed")
    weights = resolve_model(TINY_MODEL, models_directory=None)
    manifest = build_manifest(weights, TINY_MODEL, cache_directory=directory)
    return RingModel(weights, manifest, (functools.partial(load_engine, backend="torch"),))


def by_hand(model, wire, prompt, *, sealed):
    """What the same shards say without sessions, frames and hosts between them."""
    load, layers = model.loads[0], model.manifest.layers
    shards = [
        load(
            model.spec(
                span,
                embeds=not sealed and span.start == 0,
                has_head=not sealed and span.end == layers,
            )
        )
        for span in spans(HOPS, layers)
    ]
    if sealed:
        ends = load(model.spec(Span(0, 0), embeds=True, has_head=True))
        shards = [ends, *shards, ends]
    return Route(shards, wire=wire).generate(prompt, MAX_TOKENS)


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "open"])
@pytest.mark.parametrize("wire", INT8)
@pytest.mark.parametrize("make_model", [fake_model, tiny_model], ids=["fake", "torch"])
async def test_ring_gives_the_tokens_of_its_shards(tmp_path, make_model, wire, sealed):
    model = make_model(tmp_path)
    expected = by_hand(model, wire, PROMPT, sealed=sealed)
    async with make_ring(tmp_path, HOPS, paid=True, sealed=sealed, model=model, wire=wire) as ring:
        assert await ring.answer(max_tokens=MAX_TOKENS) == expected


@pytest.mark.parametrize("wire", WireDtype)
async def test_hops_are_paid_for_the_bytes_that_travel(tmp_path, wire):
    async with make_ring(tmp_path, HOPS, paid=True, wire=wire) as ring:
        await ring.answer(max_tokens=10)
        rows = len(PROMPT) + 9
        row_bytes = wire.row_bytes(ring.model.manifest.hidden_size)
        for provider in ring.providers:
            (lane,) = provider.collector._lanes.values()
            assert lane.receipt.work.bytes_in == rows * row_bytes


@pytest.mark.parametrize("hop_count", [1, 2, 5])
async def test_int8b32_carries_the_fake_model_exactly(tmp_path, hop_count):
    async with make_ring(tmp_path, hop_count) as ring:
        expected = await ring.answer()
    async with make_ring(tmp_path, hop_count, wire=WireDtype.INT8B32) as ring:
        assert await ring.answer() == expected
