import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.base import Output, StepItem
from node.engine.fake import load
from node.engine.parts import cut, join
from protocol.tensor import WireDtype
from tests.node.engine.engine_cases import FAKE_LAYERS, GREEDY, spec_of, write_fake_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_fake_model(tmp_path_factory.mktemp("model"))


@given(
    count=st.integers(1, 40),
    wanted=st.integers(0, 40),
    sizes=st.lists(st.integers(1, 13), min_size=40, max_size=40),
    yields_tokens=st.booleans(),
    takes_tokens=st.booleans(),
    wire=st.sampled_from([WireDtype.FP32, WireDtype.BF16]),
)
def test_parts_tile_an_item_and_yield_what_it_would_have(
    directory, count, wanted, sizes, yields_tokens, takes_tokens, wire
):
    spec = spec_of(directory, 0 if takes_tokens else 1, FAKE_LAYERS)
    values = np.random.default_rng(count).integers(0, 200, (count, 16))
    hidden = values.astype(np.float32)
    if wire is WireDtype.BF16:
        hidden = (hidden.view(np.uint32) >> 16).astype(np.uint16)
    item = StepItem(
        1,
        0,
        count,
        min(wanted, count),
        Output.TOKENS if yields_tokens else Output.HIDDEN,
        wire,
        tokens=values[:, 0].astype(np.int32) if takes_tokens else None,
        hidden=None if takes_tokens else hidden,
    )
    whole, parted = load(spec), load(spec)
    for engine in (whole, parted):
        engine.open(1, capacity_tokens=64, sampling=GREEDY)
    (expected,) = whole.step([item])
    results, first_row = [], 0
    for size in sizes:
        rows = min(size, count - first_row)
        if rows:
            part = cut(item, first_row, rows)
            assert (part.position, part.count) == (first_row, rows)
            results += parted.step([part])
            first_row += rows
    joined = join(results)
    for name in ("tokens", "hidden"):
        ours, theirs = getattr(joined, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_an_item_in_one_part_is_itself():
    item = StepItem(1, 0, 2, 1, Output.TOKENS, WireDtype.FP32, tokens=np.zeros(2, np.int32))
    assert cut(item, 0, 2) is item
