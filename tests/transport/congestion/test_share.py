"""All connections of a host together send no more than the share, however many there are."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.congestion.pacing import Pacer
from transport.congestion.share import CREDIT_S, RATE_MIN_BYTES_S, UploadShare

SIZE = 1200
SHARE = 500_000.0
LIMIT = 100_000_000
"""Where nothing is paced there is no end."""


@dataclass
class Rate:
    pacing_rate_bytes_s: float | None = 10_000_000.0


def pacers(share: UploadShare, count: int, rate: float | None = 10_000_000.0) -> list[Pacer]:
    made = [Pacer(Rate(rate), datagram_bytes=SIZE, share=share) for _ in range(count)]
    for pacer in made:
        pacer.refresh()
    return made


def sent_bytes(group: list[Pacer], seconds: float) -> int:
    """How much leaves when everybody always has something to send."""
    sent, now = 0, 100.0
    while now < 100.0 + seconds:
        for pacer in group:
            while pacer.next_send_time(now) is None and sent < LIMIT:
                pacer.update_after_send(now)
                pacer.settle(now, SIZE)
                sent += SIZE
        now += 0.001
    return sent


@given(count=st.integers(1, 12), rate=st.floats(RATE_MIN_BYTES_S, 5_000_000))
def test_together_they_keep_to_the_share(count, rate):
    sent = sent_bytes(pacers(UploadShare(rate), count), 2.0)
    # each may have built one datagram before the others' were counted
    assert sent <= rate * (2.0 + CREDIT_S) + (count + 1) * SIZE
    assert sent >= 0.9 * min(rate * 2.0, 10_000_000 * 2.0 * count) - count * SIZE


def test_one_alone_may_use_the_whole_share():
    assert sent_bytes(pacers(UploadShare(SHARE), 1), 4.0) >= 0.95 * SHARE * 4.0


def test_without_a_limit_each_has_its_own_rate():
    share = UploadShare()
    assert sent_bytes(pacers(share, 2), 1.0) > 15_000_000


def test_a_limit_can_change_and_end():
    share = UploadShare(SHARE)
    group = pacers(share, 2)
    slow = sent_bytes(group, 1.0)
    share.set_rate(None)
    assert sent_bytes(pacers(share, 2), 1.0) > 10 * slow


def test_what_is_not_paced_is_not_the_uplink():
    share = UploadShare(RATE_MIN_BYTES_S)
    (lan,) = pacers(share, 1, None)
    assert sent_bytes([lan], 0.1) >= LIMIT
    assert share.release_at() < 100.0


def test_too_little_to_work_with_is_refused():
    with pytest.raises(ValueError, match="below"):
        UploadShare(100.0)
