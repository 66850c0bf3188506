"""The window on a LAN."""

from transport.congestion.lan_window import LanWindow

SIZE = 1200


def test_it_begins_large_and_doubles_until_a_loss():
    window = LanWindow(datagrams=200, datagram_bytes=SIZE)
    assert window.window_bytes == 200 * SIZE
    window.on_acked(200 * SIZE)
    assert window.window_bytes == 400 * SIZE
    window.on_lost(5.0, 4.9)
    assert window.window_bytes == 200 * SIZE
    window.on_acked(200 * SIZE)
    assert window.window_bytes == 201 * SIZE


def test_losses_of_one_round_trip_are_one_event():
    window = LanWindow(datagrams=200, datagram_bytes=SIZE)
    window.on_lost(5.0, 4.9)
    window.on_lost(5.001, 4.95)
    assert window.window_bytes == 100 * SIZE


def test_it_stays_within_bounds():
    window = LanWindow(datagrams=200, datagram_bytes=SIZE)
    for _ in range(100):
        window.on_acked(1 << 20)
    assert window.window_bytes == 1 << 24
    for second in range(100):
        window.on_lost(second + 1.0, second + 0.9)
    assert window.window_bytes == 16 * SIZE
