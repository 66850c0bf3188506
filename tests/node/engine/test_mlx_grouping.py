"""Which sequences of a batch share a pass: never more memory than they have reserved."""

from hypothesis import given
from hypothesis import strategies as st

from node.engine.mlx_backend.grouping import (
    BLOCK_ROWS,
    PADDING_MAX,
    ROWS_MAX,
    Lane,
    plan_groups,
    rounded_rows,
)


@st.composite
def lanes(draw):
    length, count = draw(st.integers(0, 3000)), draw(st.integers(1, 40))
    return Lane(length, count, length + count + draw(st.integers(0, 2000)))


class TestPlanGroups:
    @given(st.lists(lanes(), max_size=12))
    def test_every_item_is_in_one_group_and_every_group_is_within_bounds(self, batch):
        groups = plan_groups(batch)
        assert sorted(index for group in groups for index in group) == list(range(len(batch)))
        for group in groups:
            members = [batch[index] for index in group]
            rows = max(member.count for member in members)
            if len(members) == 1:
                continue
            assert rows <= ROWS_MAX
            assert rows * len(members) <= PADDING_MAX * sum(member.count for member in members)
            held = len(members) * rounded_rows(max(member.length for member in members) + rows)
            reserved = sum(rounded_rows(member.capacity_tokens) for member in members)
            assert held <= reserved

    def test_decodes_go_together_whatever_their_lengths(self):
        assert plan_groups([Lane(10 * index, 1, 500) for index in range(32)]) == [list(range(32))]

    def test_a_decode_goes_with_short_verifies_and_not_with_a_prefill_chunk(self):
        batch = [Lane(5, 1, 300), Lane(0, 64, 300), Lane(9, 3, 300), Lane(9, 2, 300)]
        assert plan_groups(batch) == [[0, 3, 2], [1]]

    def test_a_long_sequence_goes_alone_where_short_ones_reserved_too_little(self):
        short = [Lane(index, 1, BLOCK_ROWS) for index in range(3)]
        assert plan_groups([Lane(2000, 1, 2048), *short]) == [[1, 2, 3], [0]]
        roomy = [Lane(index, 1, 2048) for index in range(3)]
        assert plan_groups([Lane(2000, 1, 2048), *roomy]) == [[1, 2, 3, 0]]
