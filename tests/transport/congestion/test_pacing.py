"""The pacer lets datagrams out at the rate it is told, no faster over any longer time."""

from dataclasses import dataclass

import pytest

from transport.congestion.pacing import BURST_DATAGRAMS_MAX, BURST_S, CREDIT_S, Pacer

SIZE = 1200
RATE = 2_500_000.0  # bytes a second: 20 Mbit/s


@dataclass
class Rate:
    pacing_rate_bytes_s: float | None = RATE


def paced(rate: float | None = RATE) -> Pacer:
    pacer = Pacer(Rate(rate), datagram_bytes=SIZE)
    pacer.refresh()
    return pacer


def drain(pacer: Pacer, now: float, size: int = SIZE) -> int:
    """Send until it says no; returns how many went."""
    for count in range(10_000):
        if pacer.next_send_time(now) is not None:
            return count
        pacer.update_after_send(now)
        pacer.settle(now, size)
    return 10_000


def test_nothing_is_held_back_without_a_rate():
    assert drain(paced(None), 100.0) == 10_000


def test_a_pause_earns_the_credit_and_no_more():
    assert drain(paced(), 100.0) == int(CREDIT_S * RATE / SIZE) + 1
    pacer = paced()
    drain(pacer, 100.0)
    assert drain(pacer, 200.0) == int(CREDIT_S * RATE / SIZE) + 1


@pytest.mark.parametrize("lateness", [0.0, 0.0009, 0.004])
def test_the_rate_is_held_whatever_the_timer_does(lateness: float):
    pacer, now, sent = paced(), 100.0, 0
    sent -= drain(pacer, now)  # the credit at the beginning
    while now < 101.0:
        sent += drain(pacer, now)
        wanted = pacer.next_send_time(now)
        assert wanted is not None
        now = wanted + lateness
    sent += int(CREDIT_S * RATE / SIZE) + 1
    assert sent * SIZE == pytest.approx(RATE, rel=0.02)


def test_being_asked_early_lets_nothing_out_that_is_not_due():
    pacer, sent = paced(), 0
    drain(pacer, 100.0)
    for tick in range(1, 10_001):  # a second in steps of 0.1 ms, as ACKs may come
        sent += drain(pacer, 100.0 + tick / 10_000)
    assert sent * SIZE == pytest.approx(RATE, rel=0.01)


def test_the_timer_waits_for_a_burst():
    pacer, now = paced(), 100.0
    drain(pacer, now)
    wanted = pacer.next_send_time(now)
    assert wanted is not None
    assert drain(pacer, wanted) == int(BURST_S * RATE / SIZE) + 1


def test_a_burst_fits_one_segmented_send_at_any_rate():
    pacer, now = paced(125_000_000.0), 100.0
    drain(pacer, now)
    wanted = pacer.next_send_time(now)
    assert wanted is not None
    assert drain(pacer, wanted) <= BURST_DATAGRAMS_MAX + 1


def test_acknowledgements_alone_cost_nothing():
    pacer = paced(30_000.0)
    for tick in range(1000):
        pacer.update_after_send(100.0 + tick / 200)
        pacer.settle(100.0 + tick / 200, 0)
    assert pacer.next_send_time(105.0) is None


def test_a_small_message_costs_its_size():
    many = drain(paced(), 100.0, size=100)
    assert many == pytest.approx(12 * CREDIT_S * RATE / SIZE, abs=3)


def test_larger_datagrams_leave_less_often():
    pacer = paced()
    pacer.set_datagram_bytes(2 * SIZE)
    assert drain(pacer, 100.0, 2 * SIZE) == int(CREDIT_S * RATE / SIZE / 2) + 1


def test_aioquics_call_takes_the_rate_over_from_the_controller():
    rate = Rate(None)
    pacer = Pacer(rate, datagram_bytes=SIZE)
    rate.pacing_rate_bytes_s = RATE
    pacer.update_rate(congestion_window=1, smoothed_rtt=1.0)
    assert drain(pacer, 100.0) < 100
