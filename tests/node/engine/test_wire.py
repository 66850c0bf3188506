"""The codec as properties, and its golden bytes: what any other implementation must give."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from node.engine.base import wire_array_dtype, wire_array_shape
from node.engine.wire import (
    SCALE_MAX,
    SCALE_MIN,
    decode,
    encode,
    from_payload,
    is_sound,
    turn,
    turn_block,
)
from protocol.tensor import WireDtype

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "wire.json").read_text())
INT8 = (WireDtype.INT8B32, WireDtype.INT8B32H)
HIDDEN_SIZES = (1, 16, 33, 64, 80, 192)
DIVISION_ROUNDING = 127 * 2.0**-24
"""By how much the quotient of two fp32 numbers below 128 may be off."""


def rows_of(elements, hidden_sizes=HIDDEN_SIZES):
    shapes = st.tuples(st.integers(1, 3), st.sampled_from(hidden_sizes))
    return shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=elements))


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ORDINARY = st.floats(-1e6, 1e6, width=32)


def scales_of(array, hidden_size):
    """The bits of each value's scale, (rows, hidden_size)."""
    bits = array[:, : 2 * -(-hidden_size // 32)].copy().view(np.uint16)
    return np.repeat(bits, 32, axis=1)[:, :hidden_size]


def as_floats(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class TestEveryDtype:
    @pytest.mark.parametrize("dtype", WireDtype)
    @given(rows_of(ORDINARY))
    def test_has_the_shape_that_the_dtype_implies_and_is_sound(self, dtype, rows):
        array = encode(rows, dtype)
        assert array.shape == wire_array_shape(*rows.shape, dtype)
        assert array.dtype == wire_array_dtype(dtype)
        assert array.flags.c_contiguous
        assert array.nbytes == len(rows) * dtype.row_bytes(rows.shape[1])
        assert is_sound(array, dtype, rows.shape[1])
        again = from_payload(array.tobytes(), dtype, count=len(rows), hidden_size=rows.shape[1])
        np.testing.assert_array_equal(again, array)

    @pytest.mark.parametrize("dtype", WireDtype)
    def test_no_rows_and_zero_rows(self, dtype):
        for count in (0, 2):
            array = encode(np.zeros((count, 80), np.float32), dtype)
            assert is_sound(array, dtype, 80)
            np.testing.assert_array_equal(decode(array, dtype, 80), np.zeros((count, 80)))

    @pytest.mark.parametrize("dtype", WireDtype)
    @given(rows_of(ORDINARY))
    def test_a_row_is_encoded_by_itself(self, dtype, rows):
        together = encode(rows, dtype)
        for index in range(len(rows)):
            alone = encode(rows[index : index + 1], dtype)
            np.testing.assert_array_equal(alone[0], together[index])

    @pytest.mark.parametrize("dtype", WireDtype)
    def test_golden_bytes(self, dtype):
        for case in VECTORS:
            hidden_size = case["hidden_size"]
            rows = np.frombuffer(bytes.fromhex(case["rows"]), "<f4").reshape(-1, hidden_size)
            array = encode(rows, dtype)
            assert array.tobytes().hex() == case[dtype], case["name"]
            assert decode(array, dtype, hidden_size).tobytes().hex() == case[f"{dtype} decoded"]


class TestInt8b32:
    @given(rows_of(FINITE))
    def test_error_is_at_most_half_a_scale(self, rows):
        array = encode(rows, WireDtype.INT8B32)
        found = decode(array, WireDtype.INT8B32, rows.shape[1])
        bits = scales_of(array, rows.shape[1])
        # Also where the scale was rounded down: 127.25 of it still round to 127.
        bound = as_floats(bits) * (0.5 + DIVISION_ROUNDING)
        errors = np.abs(rows.astype(np.float64) - found)
        assert (errors <= bound)[bits < SCALE_MAX].all()

    @given(rows_of(FINITE))
    def test_encoding_what_was_decoded_gives_the_same_bytes(self, rows):
        array = encode(rows, WireDtype.INT8B32)
        found = decode(array, WireDtype.INT8B32, rows.shape[1])
        np.testing.assert_array_equal(encode(found, WireDtype.INT8B32), array)

    def test_scale_and_values_are_those_of_the_definition(self):
        row = np.zeros((1, 64), np.float32)
        row[0, :4] = 127.0, 0.5, 1.5, -2.5
        array = encode(row, WireDtype.INT8B32)
        assert array[0, :4].copy().view(np.uint16).tolist() == [0x3F80, SCALE_MIN]
        assert array[0, 4:].view(np.int8)[:4].tolist() == [127, 0, 2, -2]
        assert not array[0, 8:].any()

    def test_an_outlier_spoils_its_own_block_only(self):
        rows = np.random.default_rng(0).standard_normal((1, 96)).astype(np.float32)
        rows[0, 40] = 1e4
        errors = np.abs(rows - decode(encode(rows, WireDtype.INT8B32), WireDtype.INT8B32, 96))[0]
        assert errors[:32].max() < 0.02
        assert errors[64:].max() < 0.02
        np.testing.assert_array_equal(errors[33:40], np.abs(rows[0, 33:40]))

    def test_a_short_last_block_costs_what_it_has(self):
        row = np.arange(1, 34, dtype=np.float32)[None]
        array = encode(row, WireDtype.INT8B32)
        assert array.shape == (1, 33 + 4)
        assert array[0, -1:].view(np.int8)[0] == 127


class TestTurn:
    @pytest.mark.parametrize("hidden_size", [16, 64, 80, 192, 4096])
    def test_is_the_hadamard_matrix_of_each_block(self, hidden_size):
        rows = np.random.default_rng(1).standard_normal((3, hidden_size)).astype(np.float32)
        block = turn_block(hidden_size)
        matrix = np.ones((1, 1))
        while len(matrix) < block:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        blocks = rows.reshape(3, -1, block).astype(np.float64)
        expected = (blocks @ matrix / math.sqrt(block)).reshape(3, hidden_size)
        np.testing.assert_allclose(turn(rows), expected, atol=2e-6)

    @given(rows_of(ORDINARY))
    def test_undoes_itself(self, rows):
        largest = np.abs(rows).max(initial=1e-30)
        assert np.abs(turn(turn(rows)) - rows).max() <= 4e-6 * largest

    @pytest.mark.parametrize(
        ("hidden_size", "block"),
        [(1, 1), (80, 16), (192, 64), (896, 128), (3072, 1024), (4096, 4096), (16384, 4096)],
    )
    def test_block_is_the_largest_power_of_two_in_the_hidden_size(self, hidden_size, block):
        assert turn_block(hidden_size) == block

    def test_outlier_channels_cost_less_than_without_it(self):
        rows = np.random.default_rng(2).standard_normal((16, 192)).astype(np.float32)
        plain = rows.copy()
        rows[:, [7, 100]] += (40.0, -25.0)
        errors = {
            dtype: np.linalg.norm(decode(encode(rows, dtype), dtype, 192) - rows) for dtype in INT8
        }
        assert errors[WireDtype.INT8B32H] < 0.8 * errors[WireDtype.INT8B32]
        without = decode(encode(plain, WireDtype.INT8B32H), WireDtype.INT8B32H, 192) - plain
        assert np.linalg.norm(without) < 0.01 * np.linalg.norm(plain)


class TestExtremes:
    @pytest.mark.parametrize("dtype", INT8)
    @pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-20, 1e30, 1e35])
    def test_tiny_and_huge_rows(self, dtype, size):
        pattern = np.resize([1.0, -1.0, 0.5, 0.25, 0.0], 192)
        rows = (pattern * size).astype(np.float32)[None]
        array = encode(rows, dtype)
        found = decode(array, dtype, 192)
        assert is_sound(array, dtype, 192)
        error = np.abs(found.astype(np.float64) - rows).max()
        assert error <= (0.03 * size if size > 1e-20 else 5.1e-9)

    @pytest.mark.parametrize("dtype", INT8)
    @given(rows=rows_of(FINITE))
    def test_whatever_is_encoded_is_sound_and_decodes_to_numbers(self, dtype, rows):
        array = encode(rows, dtype)
        assert is_sound(array, dtype, rows.shape[1])
        assert np.isfinite(decode(array, dtype, rows.shape[1])).all()


class TestStrangersBytes:
    @pytest.mark.parametrize("dtype", INT8)
    @given(st.data())
    def test_what_is_sound_decodes_to_numbers_of_both_float_widths(self, dtype, data):
        hidden_size = data.draw(st.sampled_from(HIDDEN_SIZES))
        shape = wire_array_shape(2, hidden_size, dtype)
        array = data.draw(arrays(np.uint8, shape))
        bits = array[:, : 2 * -(-hidden_size // 32)].view(np.uint16)
        if data.draw(st.booleans()):
            bits[...] = data.draw(arrays(np.uint16, bits.shape, elements=st.integers(12844, 30848)))
        is_expected = bool(((bits >= SCALE_MIN) & (bits <= SCALE_MAX)).all())
        assert is_sound(array, dtype, hidden_size) == is_expected
        if is_expected:
            found = decode(array, dtype, hidden_size)
            assert np.isfinite(found).all()
            assert np.isfinite(as_floats(encode(found, WireDtype.BF16))).all()

    @pytest.mark.parametrize("dtype", INT8)
    @pytest.mark.parametrize("hidden_size", [64, 4096, 8192])
    def test_the_largest_that_may_be_sent_is_finite(self, dtype, hidden_size):
        array = np.full(wire_array_shape(1, hidden_size, dtype), 0x80, np.uint8)
        array[:, : hidden_size // 16].view(np.uint16)[...] = SCALE_MAX
        assert is_sound(array, dtype, hidden_size)
        found = decode(array, dtype, hidden_size)
        assert np.isfinite(as_floats(encode(found, WireDtype.BF16))).all()

    @pytest.mark.parametrize(
        ("dtype", "bits"),
        [
            (dtype, bits)
            for dtype in INT8
            for bits in (0, 1, 0x7F, 0x322B, 0x7881, 0x7F80, 0x7FC0, 0x8000, 0xBF80, 0xFFFF)
        ],
    )
    def test_one_wrong_scale_is_not_sound(self, dtype, bits):
        array = encode(np.ones((3, 80), np.float32), dtype)
        assert is_sound(array, dtype, 80)
        array[1, 2:4] = np.array([bits], np.uint16).view(np.uint8)
        assert not is_sound(array, dtype, 80)
