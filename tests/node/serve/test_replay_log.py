from hypothesis import given
from hypothesis import strategies as st

from node.serve.replay_log import REPLAY_CHUNK_ROWS, ReplayBudget, ReplayLog
from protocol.limits import FRAME_BYTES_MAX, HIDDEN_SIZE_MAX
from protocol.tensor import WireDtype

ROW_BYTES = 3
BUDGET_BYTES = 2000


def payload(value: int, count: int) -> bytes:
    """Rows that differ from one another and from those of other values."""
    return b"".join(bytes((value % 256, (value // 256 + n) % 256, n % 256)) for n in range(count))


def read_all(log: ReplayLog, start: int, stop: int) -> bytes:
    """Chunk by chunk, as a repair does."""
    read, position = b"", start
    while (chunk := log.read(position, stop)) is not None:
        assert chunk.position == position
        assert 0 < chunk.count <= REPLAY_CHUNK_ROWS
        assert len(chunk.payload) == chunk.count * ROW_BYTES
        read += chunk.payload
        position += chunk.count
    assert position == max(start, min(stop, log.end))
    return read


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 300)),
        st.tuples(st.just("truncate"), st.integers(0, 800)),
        st.tuples(st.just("read"), st.integers(0, 800)),
    ),
    max_size=40,
)


class TestReplayLog:
    @given(OPERATIONS, st.integers(0, 70))
    def test_it_is_a_list_of_rows(self, operations, start):
        budget = ReplayBudget(BUDGET_BYTES)
        log = ReplayLog(ROW_BYTES, budget, start=start)
        rows = [b"???"] * start  # those that were here before cannot be given
        first = start
        for number, (what, size) in enumerate(operations):
            match what:
                case "append":
                    data = payload(number, size)
                    log.append(len(rows), size, data)
                    if (len(rows) - first + size) * ROW_BYTES > BUDGET_BYTES:
                        first = len(rows) + size
                    rows += [data[n : n + ROW_BYTES] for n in range(0, len(data), ROW_BYTES)]
                case "truncate":
                    log.truncate(size)
                    del rows[size:]
                    first = min(first, len(rows))
                case "read":
                    begin = max(first, min(size, len(rows)))
                    assert read_all(log, begin, len(rows) + 9) == b"".join(rows[begin:])
                    stop = (begin + len(rows)) // 2
                    assert read_all(log, begin, stop) == b"".join(rows[begin:stop])
            assert (log.first, log.end) == (first, len(rows))
            assert budget.used_bytes == (len(rows) - first) * ROW_BYTES
        log.close()
        assert budget.used_bytes == 0

    @given(OPERATIONS)
    def test_who_follows_it_ends_with_the_same_rows(self, operations):
        """A copy made by cuts and reads, looked after only now and then."""
        log = ReplayLog(ROW_BYTES, ReplayBudget(1 << 20))
        changes = []
        cursor = log.follow(0, lambda: changes.append(1))
        rows, copy = b"", b""
        for number, (what, size) in enumerate([*operations, ("read", 0)]):
            match what:
                case "append":
                    log.append(log.end, size, payload(number, size))
                    rows += payload(number, size)
                    assert changes
                case "truncate":
                    log.truncate(size)
                    rows = rows[: size * ROW_BYTES]
                case "read":
                    changes.clear()
                    if (cut := cursor.take_cut()) is not None:
                        copy = copy[: cut * ROW_BYTES]
                    while (chunk := log.read(cursor.position, log.end)) is not None:
                        cursor.position += chunk.count
                        copy += chunk.payload
                    assert copy == rows
        log.unfollow(cursor)

    def test_logs_share_their_budget(self):
        budget = ReplayBudget(30 * ROW_BYTES)
        one, two = (ReplayLog(ROW_BYTES, budget) for _ in range(2))
        one.append(0, 20, payload(1, 20))
        two.append(0, 10, payload(2, 10))
        two.append(10, 1, payload(3, 1))
        assert (two.first, two.end, budget.used_bytes) == (11, 11, 20 * ROW_BYTES)
        one.close()
        two.append(11, 25, payload(4, 25))
        assert read_all(two, 11, 99) == payload(4, 25)

    def test_what_one_replay_holds_fits_a_frame_however_wide_rows_are(self):
        row_bytes = WireDtype.FP32.row_bytes(HIDDEN_SIZE_MAX)
        log = ReplayLog(row_bytes, ReplayBudget())
        assert log.chunk_rows * row_bytes <= FRAME_BYTES_MAX // 2
