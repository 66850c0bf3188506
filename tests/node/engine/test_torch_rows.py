"""What the torch backend sends and takes: byte for byte what node/engine/wire.py defines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from node.engine import wire
from protocol.tensor import WireDtype

torch = pytest.importorskip("torch", reason="the torch backend is not installed")

from node.engine.torch_backend.rows import (  # noqa: E402 - needs torch
    from_wire,
    from_wire_all,
    to_wire,
    to_wire_all,
)

HIDDEN_SIZES = (1, 16, 33, 64, 80, 192)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.tuples(st.integers(0, 3), st.sampled_from(HIDDEN_SIZES)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=FINITE)
)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def received(array, dtype, hidden_size, *, compute=torch.float32, device="cpu"):
    target = torch.full((len(array), hidden_size), 7.0, dtype=compute, device=device)
    array.flags.writeable = False  # as shared memory and payloads are
    from_wire(array, dtype, target)
    return target.cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", WireDtype)
@settings(max_examples=40)
@given(rows=ROWS)
def test_bytes_and_values_are_those_of_numpy(dtype, device, rows):
    if dtype is WireDtype.BF16:
        rows = np.clip(rows, -3e38, 3e38)
    expected = wire.encode(rows, dtype)
    found = to_wire(torch.from_numpy(rows).to(device), dtype)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.flags.c_contiguous
    assert found.tobytes() == expected.tobytes()
    decoded = wire.decode(expected, dtype, rows.shape[1])
    taken = received(found, dtype, rows.shape[1], device=device)
    assert taken.numpy().tobytes() == decoded.tobytes()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", WireDtype)
@pytest.mark.parametrize(("count", "hidden_size"), [(1, 4096), (40, 3072), (512, 896)])
def test_bytes_of_real_sizes_in_bf16(dtype, device, count, hidden_size):
    rows = torch.randn(count, hidden_size, generator=torch.Generator().manual_seed(3)).bfloat16()
    found = to_wire(rows.to(device), dtype)
    assert found.tobytes() == wire.encode(rows.float().numpy(), dtype).tobytes()
    decoded = torch.from_numpy(wire.decode(found, dtype, hidden_size).copy())
    taken = received(found, dtype, hidden_size, compute=torch.bfloat16, device=device)
    assert torch.equal(taken, decoded.bfloat16())


@pytest.mark.parametrize("dtype", WireDtype)
def test_rows_may_be_a_part_of_others(dtype):
    rows = torch.randn(8, 192)
    whole = to_wire(rows, dtype)
    np.testing.assert_array_equal(to_wire(rows[2:5], dtype), whole[2:5])
    np.testing.assert_array_equal(to_wire(rows[::2], dtype), whole[::2])
    into = torch.zeros(8, 192)
    from_wire(whole[2:5], dtype, into[3:6])
    assert torch.equal(into[3:6], received(whole[2:5], dtype, 192))
    assert not into[:3].any()
    assert not into[6:].any()


def test_parts_of_several_dtypes_travel_together_as_each_would_alone():
    rows = torch.randn(12, 192)
    parts = [
        (slice(0, 3), WireDtype.INT8B32H),
        (slice(3, 4), WireDtype.BF16),
        (slice(4, 4), WireDtype.INT8B32H),
        (slice(5, 9), WireDtype.INT8B32H),
        (slice(9, 12), WireDtype.BF16),
    ]
    arrays = to_wire_all(parts, rows)
    into = torch.full((12, 192), 7.0)
    from_wire_all([(*part, array) for part, array in zip(parts, arrays, strict=True)], into)
    for (part, dtype), array in zip(parts, arrays, strict=True):
        np.testing.assert_array_equal(array, to_wire(rows[part], dtype))
        assert array.flags.c_contiguous
        assert torch.equal(into[part], received(array, dtype, 192))
    assert bool((into[4] == 7.0).all())
    assert to_wire_all([], rows) == []
