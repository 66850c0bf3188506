"""What a head makes of meters that come twice, too early, too late, or not from all."""

import pytest

from protocol.errors import RemoteProtocolError
from tests.protocol.alone import (
    THREE,
)
from tests.protocol.ring import Ring


class TestMeters:
    def test_one_that_comes_twice_keeps_nobody_from_his_pay(self):
        ring = Ring(window=1, credit=8)
        ring.step()
        twice = ring.meters[0]
        assert len(ring.pay()) == 3
        ring.head.accept_meter(*twice)
        ring.step()
        assert len(ring.pay()) == 3

    def test_one_that_nobody_else_sends_keeps_nobody_from_his_pay(self):
        ring, odd = Ring(window=2, credit=8), Ring(window=1, credit=8)
        ring.step()
        odd.step()
        ring.head.accept_meter(*odd.meters[1])
        ring.step()
        assert len(ring.pay()) == 3

    def test_an_old_one_is_refused_once_later_ones_are_paid(self):
        ring = Ring(THREE[:1], window=1, credit=8)
        ring.step()
        old = ring.meters[0]
        ring.pay()
        ring.step()
        ring.pay()
        with pytest.raises(RemoteProtocolError, match="paid"):
            ring.head.accept_meter(*old)
        assert ring.head.payable() == []

    def test_one_for_steps_that_were_never_sent_is_refused(self):
        ahead, ring = Ring(window=2, credit=8), Ring(window=2, credit=8)
        ring.send()
        for _ in range(2):
            ahead.step()
        with pytest.raises(RemoteProtocolError, match="never sent"):
            ring.head.accept_meter(*ahead.meters[0])
