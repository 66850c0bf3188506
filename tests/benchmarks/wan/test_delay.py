"""Lines of the measuring bed, without a network: when a datagram comes out, and what is dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wan.delay import HEADER_BYTES, Conditions, Lines

SIZE = 1200
AT_10_MBIT_S = (SIZE + HEADER_BYTES) * 8 / 10e6


def came(lines: Lines, until: float) -> list[tuple[float, int, int]]:
    return [(arrival.due, arrival.source, arrival.target) for arrival in lines.due(until)]


def test_a_datagram_is_due_after_the_delay_and_not_before():
    lines = Lines(Conditions(delay_ms=30))
    lines.accept(0, 1, b"x", now=1.0)
    assert lines.next_due == pytest.approx(1.03)
    assert came(lines, 1.0299) == []
    assert came(lines, 1.0301) == [(pytest.approx(1.03), 0, 1)]
    assert lines.next_due is None


def test_an_uplink_is_shared_by_all_its_owner_sends_and_by_nobody_else():
    lines = Lines(Conditions(uplink_mbit=10))
    for target in (1, 2):
        lines.accept(0, target, bytes(SIZE), now=0.0)
    lines.accept(3, 1, bytes(SIZE), now=0.0)
    once, twice = pytest.approx(AT_10_MBIT_S), pytest.approx(2 * AT_10_MBIT_S)
    assert came(lines, 1.0) == [(once, 0, 1), (once, 3, 1), (twice, 0, 2)]


def test_a_queue_drops_what_does_not_fit_and_takes_again_when_it_has_drained():
    lines = Lines(Conditions(uplink_mbit=10, queue_ms=5))
    for _ in range(20):
        lines.accept(0, 1, bytes(SIZE), now=0.0)
    fits = int(0.005 / AT_10_MBIT_S) + 1
    assert len(came(lines, 1.0)) == fits
    assert lines.counts[0, 1].overflowed == 20 - fits
    lines.accept(0, 1, bytes(SIZE), now=1.0)
    assert came(lines, 2.0) == [(pytest.approx(1.0 + AT_10_MBIT_S), 0, 1)]


def test_what_is_lost_is_counted_and_still_takes_the_uplink():
    lines = Lines(Conditions(uplink_mbit=10, loss=1.0))
    lines.accept(0, 1, bytes(SIZE), now=0.0)
    lines.conditions = Conditions(uplink_mbit=10)
    lines.accept(0, 1, bytes(SIZE), now=0.0)
    assert came(lines, 1.0) == [(pytest.approx(2 * AT_10_MBIT_S), 0, 1)]
    counts = lines.counts[0, 1]
    assert (counts.lost, counts.datagrams, counts.bytes) == (1, 2, 2 * (SIZE + HEADER_BYTES))


@given(
    sent=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 0.01)), max_size=60),
    jitter_ms=st.floats(0, 20),
    uplink_mbit=st.sampled_from([0.0, 5.0]),
)
def test_a_way_keeps_its_order_and_is_never_faster_than_light(sent, jitter_ms, uplink_mbit):
    lines = Lines(Conditions(delay_ms=30, jitter_ms=jitter_ms, uplink_mbit=uplink_mbit))
    now, sent_at = 0.0, {}
    for number, (source, pause) in enumerate(sent):
        now += pause
        sent_at[number] = now
        lines.accept(source, 3, number.to_bytes(2, "big"), now)
    arrived = [(a.due, a.source, int.from_bytes(a.data, "big")) for a in lines.due(10.0)]
    assert [due for due, _, _ in arrived] == sorted(due for due, _, _ in arrived)
    for source in range(3):
        numbers = [number for _, sender, number in arrived if sender == source]
        assert numbers == sorted(numbers)
    if not jitter_ms:
        assert all(due >= sent_at[number] + 0.03 for due, _, number in arrived)
