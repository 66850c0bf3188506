"""Delivery rates from packets."""

from types import SimpleNamespace

import pytest

from transport.congestion.meter import DeliveryMeter, Sample

SIZE = 1000


class Path:
    """Packets arrive `rtt` after they were sent; the ACK comes when we say."""

    def __init__(self) -> None:
        self.meter = DeliveryMeter()

    def send(self, now: float, count: int = 1) -> list[SimpleNamespace]:
        packets = [SimpleNamespace(sent_time=now, sent_bytes=SIZE) for _ in range(count)]
        for packet in packets:
            self.meter.on_packet_sent(packet=packet)
        return packets

    def ack(self, now: float, packets: list[SimpleNamespace]) -> Sample | None:
        for packet in packets:
            self.meter.on_packet_acked(now=now, packet=packet)
        return self.meter._close_sample(now)


def steady(path: Path, rounds: int) -> list[Sample | None]:
    """10 packets every 0.1 s, each acknowledged 0.1 s later."""
    samples, before = [], path.send(0.0, 10)
    for round_ in range(1, rounds):
        now = round_ / 10
        after = path.send(now, 10)
        samples.append(path.ack(now, before))
        before = after
    return samples


def test_a_steady_flow_is_measured_exactly():
    sample = steady(Path(), 5)[-1]
    assert sample is not None
    assert sample.rate_bytes_s == pytest.approx(100 * SIZE)
    assert sample.acked_bytes == 10 * SIZE


def test_every_round_trip_is_a_round():
    path = Path()
    samples = [path.ack(n + 0.1, path.send(n, 10)) for n in range(6)]
    assert all(sample and sample.is_round_over for sample in samples)


def test_acknowledgements_within_a_round_trip_are_one_round():
    path = Path()
    early = [path.send(n / 100)[0] for n in range(10)]
    samples = [path.ack(0.1 + n / 100, [packet]) for n, packet in enumerate(early)]
    assert [sample.is_round_over for sample in samples if sample] == [True] + 9 * [False]


def test_bunched_acknowledgements_are_no_bandwidth():
    path = Path()
    first = [path.send(n / 100)[0] for n in range(10)]
    path.ack(0.2, first[:1])
    sample = path.ack(0.2001, first[1:])
    assert sample is not None
    assert sample.rate_bytes_s <= 100 * SIZE * 1.2


def test_a_pause_does_not_count_as_slow_delivery():
    path = Path()
    path.ack(0.1, path.send(0.0, 10))
    sample = path.ack(60.1, path.send(60.0, 10))
    assert sample is not None
    assert sample.rate_bytes_s == pytest.approx(100 * SIZE)


def test_samples_are_marked_while_the_sender_has_little_to_send():
    path = Path()
    before = path.send(0.0, 2)
    path.meter.mark_app_limited()
    after = path.send(0.05, 2)
    first, second = path.ack(0.1, before), path.ack(0.15, after)
    assert first is not None
    assert second is not None
    assert not first.is_app_limited
    assert second.is_app_limited
    late = path.ack(0.3, path.send(0.2, 2))
    assert late is not None
    assert not late.is_app_limited


def test_packets_of_a_forgotten_path_tell_nothing():
    path = Path()
    packets = path.send(0.0, 5)
    path.meter.forget_path(0.05)
    assert path.ack(0.1, packets) is None
    assert path.meter.bytes_in_flight == 0
    sample = path.ack(0.3, path.send(0.2, 5))
    assert sample is not None
    assert sample.rate_bytes_s == pytest.approx(50 * SIZE)


def test_expired_packets_are_no_longer_in_flight():
    path = Path()
    path.meter.on_packets_expired(packets=path.send(0.0, 3))
    assert path.meter.bytes_in_flight == 0
