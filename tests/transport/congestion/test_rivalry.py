"""When a competing flow asks whether it still has to compete."""

from transport.congestion.cubic import CubicWindow
from transport.congestion.rivalry import Rivalry


def rivalry() -> Rivalry:
    return Rivalry(100.0, CubicWindow(100_000.0, 0.0, 1200))


def test_it_asks_after_some_seconds_and_later_each_time():
    found, start, gaps = rivalry(), 100.0, []
    for _ in range(5):
        now = start
        while not found.is_test_due(now, 0.1):
            now += 0.5
        gaps.append(now - start)
        start = now
        found.resume(now)
    assert gaps == [3.0, 6.0, 12.0, 16.0, 16.0]


def test_it_asks_at_once_when_the_queue_shrinks():
    found = rivalry()
    assert not found.is_test_due(101.5, 0.1)
    assert found.is_test_due(101.6, 0.05)


def test_but_not_again_within_a_second():
    found = rivalry()
    assert not found.is_test_due(100.1, 0.1)
    assert not found.is_test_due(100.2, 0.05)
