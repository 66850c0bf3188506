"""What a hop meters and does on credit, through repairs and in the place of another."""

import pytest

from protocol.errors import RemoteProtocolError
from protocol.frame import LOOP_MAX, Truncate
from protocol.hop_session import HopSession
from protocol.session import SessionState
from tests.protocol.alone import (
    SESSION,
    a_hop,
    close,
    reopen,
    replay,
    run,
    step,
)


class TestMoney:
    def test_a_replay_is_run_on_credit_and_the_credit_begins_behind_it(self):
        hop = a_hop(window=2, credit=2, epoch=1, resume=50)
        run(hop, replay(0, 50, epoch=1))
        for position in (50, 51):
            assert hop.may_work()
            run(hop, step(position, epoch=1))
        assert not hop.may_work()
        hop.accept_receipt(52)
        assert hop.may_work()

    def test_what_was_owed_before_a_repair_does_not_stop_the_first_step_behind_it(self):
        """The METER for it may be void, and then no receipt can come."""
        hop = a_hop(window=2, credit=2)
        run(hop, step(0, 2))
        assert not hop.may_work()
        reopen(hop, resume=2, steps=1)
        assert hop.may_work()

    def test_hops_meter_at_the_same_steps_of_an_epoch_whatever_they_carried_before(self):
        old, new = a_hop(window=3, credit=9), a_hop(window=3, credit=9, epoch=1, resume=4)
        run(old, step(0, 4))
        reopen(old, resume=4, steps=1)
        run(new, replay(0, 4, epoch=1))
        metered = [
            [run(hop, step(position, epoch=1)) is not None for position in range(4, 12)]
            for hop in (old, new)
        ]
        assert metered[0] == metered[1]
        assert any(metered[0])

    @pytest.mark.parametrize("state", [SessionState.BROKEN, SessionState.REOPENING])
    def test_a_session_that_is_closed_while_it_is_broken_is_paid_for_what_arrived(self, state):
        hop = a_hop(window=100, credit=100)
        run(hop, step(0, 4))
        run(hop, step(4))
        if state is SessionState.BROKEN:
            hop.lose_neighbour()
        else:
            reopen(hop, resume=4, steps=1, ready=False)
        assert hop.state is state
        meter = close(hop, steps=1 if state is SessionState.BROKEN else 0)
        assert (meter.final, meter.tokens, meter.epoch) == (True, 4, hop.open.epoch)
        hop.accept_receipt(4)
        hop.settled()
        assert hop.state is SessionState.CLOSED

    def test_a_loop_may_be_closed_when_its_first_result_has_arrived(self):
        hop = a_hop(capacity_tokens=1000, window=1000, credit=1000)
        for position in range(1 + LOOP_MAX):
            run(hop, step(position, wanted=1))
        assert close(hop, steps=1).tokens == 1


class TestStandby:
    def standby(self, **fields) -> HopSession:
        return a_hop(window=100, credit=100, epoch=1, resume=4, standby=True, **fields)

    def test_it_takes_rows_beyond_what_has_arrived_and_no_steps(self):
        hop = self.standby()
        run(hop, replay(0, 9, epoch=1))
        with pytest.raises(RemoteProtocolError, match="before the rows"):
            hop.accept_step(step(9, epoch=1))
        assert hop.accept_truncate(Truncate(SESSION, 1, 6))
        run(hop, replay(6, 2, epoch=1))

    def test_in_the_place_of_a_hop_it_keeps_what_arrived_and_begins_unpaid(self):
        hop = self.standby()
        run(hop, replay(0, 9, epoch=1))
        assert reopen(hop, resume=8, steps=3) == 8
        assert hop.carried.tokens == 0, "nobody has asked the head to count what it was sent"
        run(hop, step(8, epoch=2))
        assert close(hop, steps=1).tokens == 1
