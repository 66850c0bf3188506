"""What the wire dtypes do to the trained model's answers, within a tolerance of what was measured.

The exact figures are the rows of benchmarks/wire_codec.py; these bounds are a third wider.
"""

import pytest

from protocol.tensor import WireDtype

torch = pytest.importorskip("torch", reason="the torch backend is not installed")

from benchmarks.wire_numerics import bf16_deviation, deviation  # noqa: E402 - needs torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads on a busy machine wait for each other at every small product."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [WireDtype.INT8B32, WireDtype.INT8B32H])
@pytest.mark.parametrize(("links", "error_max"), [("1 cut", 4.3e-3), ("3 cuts", 7.4e-3)])
def test_int8_disturbs_no_more_than_computing_in_bf16_does(dtype, links, error_max):
    found = deviation(dtype, links)
    assert found.tokens == 1600
    assert found.relative_error < min(error_max, 1.25 * bf16_deviation().relative_error)
    assert found.agreement >= 0.99


def test_the_turn_is_what_outlier_channels_need():
    plain, turned = (
        deviation(dtype, "3 cuts", has_outliers=True)
        for dtype in (WireDtype.INT8B32, WireDtype.INT8B32H)
    )
    assert turned.relative_error < 0.4 * plain.relative_error
    assert turned.agreement >= 0.99 > plain.agreement


def test_fp32_disturbs_nothing():
    assert deviation(WireDtype.FP32, "3 cuts").relative_error == 0
