"""Lanes: what gathering, leaving, cutting and sharing do to rows, and who sees whom in a pass."""

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="the MLX backend is not installed")
pytest.importorskip("mlx_lm", reason="the MLX backend is not installed")

from node.engine.mlx_backend.kv import KVSequence, KVShape, gather  # noqa: E402

LAYERS = 2
SHAPE = KVShape(kv_heads=2, key_dim=4, value_dim=3, dtype=mx.float32)


def opened(count=3):
    return [KVSequence(SHAPE, LAYERS) for _ in range(count)]


def add_rows(sequences, counts, value):
    """One pass that files rows full of `value + lane` in every layer."""
    group = gather(sequences)
    group.begin([counts[sequences.index(member)] for member in group.members])
    for layer in group.layers:
        lanes = mx.array([[[[float(value + sequences.index(m))]]] for m in group.members])
        shape = (len(group.members), SHAPE.kv_heads, max(counts))
        layer.update_and_fetch(
            mx.broadcast_to(lanes, (*shape, SHAPE.key_dim)),
            mx.broadcast_to(lanes, (*shape, SHAPE.value_dim)),
        )
    group.end([counts[sequences.index(member)] for member in group.members])
    mx.eval(group.arrays)


def rows_of(sequence):
    """What its lane holds, one number a row; the same in all heads, dimensions and layers."""
    numbers = []
    for layer in sequence.group.lane_of(sequence, sequence.length):
        for array in (layer.keys, layer.values):
            rows = np.array(array)[0]
            assert (rows == rows[:1, :, :1]).all()
            numbers.append(rows[0, :, 0].tolist())
    assert all(row == numbers[0] for row in numbers)
    return numbers[0]


class TestLanes:
    def test_rows_stay_with_their_sequence_through_joins_and_leaves(self):
        first, second, third = opened()
        add_rows([first], [70], 10)
        add_rows([second], [3], 20)
        add_rows([third, second, first], [1, 2, 3], 30)
        assert len({id(sequence.group) for sequence in (first, second, third)}) == 1
        expected = {first: [10.0] * 70 + [32.0] * 3, second: [20.0] * 3 + [31.0] * 2}
        assert {sequence: rows_of(sequence) for sequence in expected} == expected
        third.cut(0)
        assert rows_of(first) == expected[first]
        add_rows([second, first], [2, 1], 40)
        assert rows_of(second) == [*expected[second], 40.0, 40.0]
        assert rows_of(first) == [*expected[first], 41.0]

    def test_the_same_sequences_in_any_order_are_not_moved(self):
        sequences = opened()
        add_rows(sequences, [1, 1, 1], 1)
        group = sequences[0].group
        assert gather(sequences[::-1]) is group
        assert gather(sequences[:2]) is not group

    def test_padding_rows_are_zero_and_no_rows(self):
        first, second = opened(2)
        add_rows([first, second], [1, 4], 5)
        assert (first.length, second.length) == (1, 4)
        first.length = 4
        assert rows_of(first) == [5.0, 0.0, 0.0, 0.0]

    def test_what_is_shared_is_copied_by_who_writes(self):
        (source,) = opened(1)
        add_rows([source], [128], 1)
        copy = source.share(64)
        source.length = 64
        add_rows([source], [3], 7)
        add_rows([copy], [2], 9)
        assert rows_of(source) == [1.0] * 64 + [7.0] * 3
        assert rows_of(copy) == [1.0] * 64 + [9.0] * 2

    def test_erased_rows_are_zero_and_the_others_stay(self):
        first, second = opened(2)
        add_rows([first, second], [3, 3], 1)
        second.length = 1
        second.erase(2)
        second.length = 3
        assert rows_of(second) == [2.0, 0.0, 0.0]
        assert rows_of(first) == [1.0] * 3


class TestMask:
    @pytest.mark.parametrize("window", [None, 4])
    @pytest.mark.parametrize("lengths", [(5, 5), (0, 9)])
    @pytest.mark.parametrize("rows", [1, 3])
    def test_each_row_sees_the_positions_up_to_its_own(self, lengths, rows, window):
        sequences = opened(2)
        for sequence, length in zip(sequences, lengths, strict=True):
            if length:
                add_rows([sequence], [length], 1)
        step = gather(sequences).begin([rows, rows])
        end = max(lengths) + rows
        seen = np.zeros((2, rows, end), bool)
        for lane, length in enumerate(lengths):
            for row in range(rows):
                at = length + row
                first = 0 if window is None else max(0, at - window + 1)
                seen[lane, row, first : at + 1] = True
        mask = step.mask(window, by_array=True, folds_groups=False)
        if mask is None:
            assert seen.all()
        else:
            assert (np.broadcast_to(np.array(mask), (2, 1, rows, end))[:, 0] == seen).all()
        word = step.mask(window, by_array=False, folds_groups=False)
        if isinstance(word, str):
            assert word == "causal"
            assert len(set(lengths)) == 1
        folded = step.mask(window, by_array=True, folds_groups=True)
        assert folded is None or folded.ndim == 5
