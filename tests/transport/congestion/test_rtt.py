"""What round trips say about a path."""

from math import inf

from transport.congestion.rtt import RoundTrips


def noted(*trips: float, start: float = 100.0) -> RoundTrips:
    found = RoundTrips()
    for index, rtt in enumerate(trips):
        found.note(start + index / 10, rtt)
    return found


def test_the_shortest_is_the_path_and_the_rest_is_queue():
    found = noted(0.05, 0.04, 0.06)
    assert found.min_s == 0.04
    assert 0.005 < found.queue_s < 0.02


def test_a_floor_is_of_the_time_since_it_was_taken():
    found = noted(0.04, 0.08)
    assert found.take_round_floor() == 0.04
    assert found.round_floor_s == inf
    found.note(101.0, 0.08)
    assert found.take_round_floor() == 0.08
    assert found.min_s == 0.04


def test_a_path_seen_again_is_not_stale():
    found = noted(0.04)
    assert not found.is_stale(109.0)
    assert found.is_stale(111.0)
    found.note(109.0, 0.0415)
    assert not found.is_stale(111.0)


def test_a_queue_that_stands_after_our_drain_is_a_rivals():
    found = noted(0.04)
    assert found.has_rival(101.0, 0.1)
    assert not found.has_rival(101.0, 0.05)
    assert found.min_s == 0.04


def test_a_somewhat_longer_path_is_believed_when_stale():
    found = noted(0.04)
    assert not found.has_rival(111.0, 0.055)
    assert found.min_s == 0.055


def test_after_two_minutes_a_much_longer_path_is_believed_too():
    found = noted(0.04)
    assert found.has_rival(200.0, 0.1)
    assert not found.has_rival(221.0, 0.1)
    assert found.min_s == 0.1


def test_no_round_trip_is_taken_for_nothing():
    assert noted(0.0).smoothed_s > 0
