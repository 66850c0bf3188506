"""What we changed in aioquic's loss recovery, and that the rest still fits."""

from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch

import transport.congestion.plugin  # noqa: F401 - registers "home"
from transport.quic.private_recovery import Recovery

RTT = 0.040


class Line:
    def __init__(self) -> None:
        self.probe_count = 0
        self.space = QuicPacketSpace(is_application_data=True)
        self.recovery = Recovery(
            congestion_control_algorithm="home",
            initial_rtt=0.1,
            max_datagram_size=1200,
            peer_completed_address_validation=True,
            send_probe=self.on_probe,
        )
        self.recovery.spaces = [self.space]
        self.recovery.handshake_confirmed = True
        self.lost: list[int] = []

    def on_probe(self) -> None:
        self.probe_count += 1

    def send(self, number: int, now: float) -> None:
        packet = QuicSentPacket(
            epoch=Epoch.ONE_RTT,
            in_flight=True,
            is_ack_eliciting=True,
            is_crypto_packet=False,
            packet_number=number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=now,
            sent_bytes=1200,
        )
        packet.delivery_handlers.append((self.on_delivery, (number,)))
        self.recovery.on_packet_sent(packet=packet, space=self.space)

    def on_delivery(self, state: SimpleNamespace, number: int) -> None:
        if state.name == "LOST":
            self.lost.append(number)

    def ack(self, numbers: Iterable[int], now: float) -> None:
        ranges = RangeSet()
        for number in numbers:
            ranges.add(number)
        self.recovery.on_ack_received(ack_rangeset=ranges, ack_delay=0.0, now=now, space=self.space)


@pytest.fixture
def line() -> Line:
    made = Line()
    made.send(0, 99.0)
    made.ack([0], 99.0 + RTT)
    return made


def test_packets_overtaken_by_a_few_are_not_lost(line: Line):
    for number in range(1, 20):
        line.send(number, 100.0 + number / 10_000)
    line.ack(range(2, 20), 100.0 + RTT)
    assert line.lost == []


def test_after_a_little_more_than_a_round_trip_they_are(line: Line):
    for number in range(1, 20):
        line.send(number, 100.0)
    line.ack(range(2, 20), 100.0 + RTT)
    due = line.recovery.get_loss_detection_time(amplification_limited=False)
    assert due == pytest.approx(100.0 + RTT * 9 / 8)
    line.recovery.on_loss_detection_timeout(now=due)
    assert line.lost == [1]


def test_on_a_short_path_some_milliseconds_are_waited(line: Line):
    for trip in range(30):
        line.send(100 + trip, 101.0 + trip)
        line.ack([100 + trip], 101.002 + trip)
    line.send(200, 140.0)
    line.send(201, 140.0)
    line.ack([201], 140.002)
    due = line.recovery.get_loss_detection_time(amplification_limited=False)
    assert due is not None
    assert due - 140.002 >= 0.0039


def test_a_packet_far_behind_is_lost_at_once(line: Line):
    for number in range(1, 40):
        line.send(number, 100.0)
    line.ack(range(2, 40), 100.0 + RTT)
    assert line.lost == [1]


def test_before_the_first_round_trip_the_guess_counts():
    line = Line()
    line.send(0, 100.0)
    line.send(1, 100.2)
    line.ack([1], 100.2)
    assert line.lost == [0]


def test_probe_timeouts_double_twice_and_then_stay(line: Line):
    now, gaps = 100.0, []
    for number in range(1, 8):
        line.send(number, now)
        due = line.recovery.get_loss_detection_time(amplification_limited=False)
        assert due is not None
        gaps.append(due - now)
        now = due
        line.recovery.on_loss_detection_timeout(now=now)
    assert line.probe_count == 7
    assert gaps[1] == pytest.approx(2 * gaps[0])
    assert gaps[2] == pytest.approx(4 * gaps[0])
    assert gaps[6] == pytest.approx(4 * gaps[0])


def test_a_forgotten_round_trip_is_measured_anew(line: Line):
    line.recovery.on_loss_detection_timeout(now=100.0)
    line.recovery.forget_rtt(0.01, 100.0)
    line.send(1, 100.0)
    due = line.recovery.get_loss_detection_time(amplification_limited=False)
    assert due == pytest.approx(100.02)
    line.ack([1], 100.3)
    assert line.recovery._rtt_smoothed == pytest.approx(0.3)
    assert line.recovery._rtt_min == pytest.approx(0.3)
