from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from node.engine.turns import DEBTS_MAX, Turns
from protocol.limits import STEP_TOKENS_MAX


def serve(turns, lease_of, rows):
    sequence_id = turns.peek()
    turns.pop(rows)
    return lease_of[sequence_id], sequence_id


class TestFairness:
    @given(
        st.lists(st.integers(1, 4), min_size=2, max_size=5),
        st.lists(st.integers(1, STEP_TOKENS_MAX), min_size=1, max_size=7),
        st.integers(10, 200),
    )
    def test_rows_of_leases_that_always_wait_differ_by_at_most_two_grants(
        self, sequence_counts, sizes, grants
    ):
        turns, lease_of, served = Turns(), {}, defaultdict(int)
        for index, count in enumerate(sequence_counts):
            for _ in range(count):
                sequence_id = len(lease_of)
                lease_of[sequence_id] = b"%d" % index
                turns.add(lease_of[sequence_id], sequence_id)
        for turn in range(grants):
            rows = sizes[turn % len(sizes)]
            lease, sequence_id = serve(turns, lease_of, rows)
            served[lease] += rows
            turns.add(lease, sequence_id)
            given_rows = [served[b"%d" % index] for index in range(len(sequence_counts))]
            assert max(given_rows) - min(given_rows) <= 2 * STEP_TOKENS_MAX

    def test_who_was_away_has_saved_nothing_up(self):
        turns, lease_of = Turns(), {1: b"steady", 2: b"away"}
        turns.add(b"steady", 1)
        for _ in range(100):
            serve(turns, lease_of, 500)
            turns.add(b"steady", 1)
        turns.add(b"away", 2)
        order = []
        for _ in range(6):
            lease, sequence_id = serve(turns, lease_of, 500)
            turns.add(lease, sequence_id)
            order.append(lease)
        assert sorted(order) == [b"away"] * 3 + [b"steady"] * 3

    def test_leaving_for_a_moment_forgives_nothing(self):
        turns, lease_of = Turns(), {1: b"a", 2: b"b", 3: b"b"}
        for lease, sequence_id in ((b"a", 1), (b"b", 2), (b"b", 3)):
            turns.add(lease, sequence_id)
        assert serve(turns, lease_of, 500)[0] == b"a"
        turns.add(b"a", 1)
        assert [serve(turns, lease_of, 100)[0] for _ in range(2)] == [b"b", b"b"]
        assert serve(turns, lease_of, 1)[0] == b"a"

    def test_within_a_lease_sequences_go_round_and_a_begun_one_is_first(self):
        turns, lease_of = Turns(), dict.fromkeys(range(4), b"a")
        for sequence_id in range(3):
            turns.add(b"a", sequence_id)
        turns.add(b"a", 3, is_begun=True)
        assert [serve(turns, lease_of, 1)[1] for _ in range(4)] == [3, 0, 1, 2]
        assert turns.peek() is None
        assert not turns


class TestBounds:
    def test_coming_and_going_leaves_nothing_behind(self):
        turns = Turns()
        turns.add(b"stays", 0)
        for index in range(10 * DEBTS_MAX):
            turns.add(b"%d" % index, index + 1)
            turns.remove(b"%d" % index, index + 1)
        assert len(turns._heap) <= 2 * DEBTS_MAX
        for index in range(10 * DEBTS_MAX):
            turns.add(b"%d" % index, index + 1)
            assert turns.peek() is not None
            turns.pop(5)
        assert len(turns._debts) <= DEBTS_MAX
