"""The window beside a flow that fills the queue."""

import pytest

from transport.congestion.cubic import CubicWindow

SIZE = 1200
RTT = 0.1
QUEUE = 0.06


def acked(window: CubicWindow, now: float, seconds: float, queue: float = QUEUE) -> float:
    """A window a round trip is acknowledged for so long; returns the time."""
    end = now + seconds
    while now < end:
        window.on_acked(now, int(window.window_bytes * 0.01 / RTT), RTT, queue)
        now += 0.01
    return now


def test_it_takes_half_the_line_at_once_and_then_grows_slowly():
    window = CubicWindow(10 * SIZE, 2_500_000.0, SIZE)
    fair = 2_500_000.0 * RTT / 2
    now = acked(window, 100.0, 0.6)
    assert window.window_bytes == pytest.approx(fair, rel=0.05)
    acked(window, now, 0.5)
    assert window.window_bytes < 1.2 * fair


def test_on_an_unknown_line_it_doubles_until_a_loss():
    window = CubicWindow(10 * SIZE, 0.0, SIZE)
    now = acked(window, 100.0, 0.5)
    assert window.window_bytes > 200 * SIZE
    window.on_lost(now, now, QUEUE)
    before = window.window_bytes
    acked(window, now, 0.3)
    assert window.window_bytes < 1.3 * before


def test_a_loss_beside_a_long_queue_takes_three_tenths():
    window = CubicWindow(300 * SIZE, 1.0, SIZE)
    now = acked(window, 100.0, 0.1)
    before = window.window_bytes
    window.on_lost(now, now, QUEUE)
    assert window.window_bytes == pytest.approx(0.7 * before)


def test_losses_of_one_round_trip_are_one_event():
    window = CubicWindow(300 * SIZE, 1.0, SIZE)
    now = acked(window, 100.0, 0.1)
    window.on_lost(now, now - 0.01, QUEUE)
    after = window.window_bytes
    window.on_lost(now + 0.05, now - 0.001, QUEUE)
    assert window.window_bytes == after
    window.on_lost(now + 0.2, now + 0.1, QUEUE)
    assert window.window_bytes < after


def test_a_loss_beside_a_short_queue_was_the_lines():
    window = CubicWindow(300 * SIZE, 1.0, SIZE)
    now = acked(window, 100.0, 0.1)
    before = window.window_bytes
    window.on_lost(now, now, QUEUE / 3)
    assert window.window_bytes == before


def test_it_comes_back_to_where_the_loss_was_and_tarries_there():
    window = CubicWindow(300 * SIZE, 1.0, SIZE)
    now = acked(window, 100.0, 0.1)
    top = window.window_bytes
    window.on_lost(now, now, QUEUE)
    now = acked(window, now, 6.5)
    assert window.window_bytes == pytest.approx(top, rel=0.05)
    acked(window, now, 1.0)
    assert window.window_bytes == pytest.approx(top, rel=0.05)


def test_a_second_loss_below_the_first_leaves_room_for_a_newcomer():
    window = CubicWindow(300 * SIZE, 1.0, SIZE)
    now = acked(window, 100.0, 0.1)
    window.on_lost(now, now, QUEUE)
    now = acked(window, now, 2.0)
    top = window.window_bytes
    window.on_lost(now, now, QUEUE)
    acked(window, now, 5.0)
    assert window.window_bytes < top
