"""Our controller as aioquic sees it."""

from types import SimpleNamespace

from aioquic.quic.congestion.base import QuicCongestionControl, create_congestion_control

from transport.congestion.plugin import CONGESTION_CONTROL, HomeCongestionControl

SIZE = 1200


def test_aioquic_finds_it_by_its_name():
    control = create_congestion_control(CONGESTION_CONTROL, max_datagram_size=SIZE)
    assert isinstance(control, HomeCongestionControl)
    assert isinstance(control, QuicCongestionControl)


def test_a_window_opens_for_whole_datagrams_only():
    control = HomeCongestionControl(max_datagram_size=SIZE)
    control.window_bytes = 10.9 * SIZE
    control.open_window()
    assert control.congestion_window == 10 * SIZE
    small = SimpleNamespace(sent_time=1.0, sent_bytes=100)
    control.on_packet_sent(packet=small)
    control.open_window()
    assert (control.congestion_window - control.bytes_in_flight) % SIZE == 0


def test_a_window_smaller_than_what_is_in_flight_is_shut():
    control = HomeCongestionControl(max_datagram_size=SIZE)
    for _ in range(20):
        control.on_packet_sent(packet=SimpleNamespace(sent_time=1.0, sent_bytes=SIZE))
    control.window_bytes = 5.0 * SIZE
    control.open_window()
    assert control.congestion_window == control.bytes_in_flight
    assert not control.has_room


def test_what_is_logged_is_the_window():
    control = HomeCongestionControl(max_datagram_size=SIZE)
    assert control.get_log_data()["cwnd"] == control.congestion_window > 0
