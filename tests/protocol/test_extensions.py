"""Leases that grow: what may change, and what head and hop do before and after."""

import dataclasses

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError, SessionError
from protocol.frame import Extended, StepKind
from protocol.money import Work
from tests.protocol.alone import LAYERS, SESSION, a_head, a_hop, run, send, step
from tests.protocol.samples import LEASE


def grown(**changes):
    more = Work(0, 400, 10_000, 10_000)
    limits = {"work_max": LEASE.work_max + more, "amount_nanos_max": LEASE.amount_nanos_max + 9}
    return dataclasses.replace(LEASE, **{**limits, **changes})


class TestLease:
    def test_limits_may_grow(self):
        grown().check_grows_from(LEASE)
        grown(settle_by_s=LEASE.settle_by_s + 60).check_grows_from(LEASE)
        LEASE.check_grows_from(LEASE)

    @pytest.mark.parametrize(
        "change",
        [
            {"lease_id": bytes(16)},
            {"hold_id": bytes(16)},
            {"payer_key": bytes(32)},
            {"tokens_max": LEASE.tokens_max + 1},
            {"fee_basis_points": LEASE.fee_basis_points + 1},
            {"work_max": Work()},
            {"amount_nanos_max": LEASE.amount_nanos_max - 1},
            {"settle_by_s": LEASE.settle_by_s - 1},
        ],
        ids=str,
    )
    def test_nothing_else_may_change(self, change):
        with pytest.raises(RemoteProtocolError):
            grown(**change).check_grows_from(LEASE)


def funded_head(rows):
    return a_head(funded_rows=rows)


class TestHead:
    def test_no_row_is_sent_beyond_what_every_hop_has_confirmed(self):
        head = funded_head(4)
        send(head, 4)
        with pytest.raises(LocalProtocolError, match="paid for"):
            send(head)
        head.send_extend(6, [10, 20, 30])
        assert not head.accept_extended(0, Extended(SESSION, 10))
        assert not head.accept_extended(1, Extended(SESSION, 19)), "the answer to an earlier one"
        assert not head.accept_extended(2, Extended(SESSION, 30))
        with pytest.raises(LocalProtocolError):
            send(head)
        assert head.accept_extended(1, Extended(SESSION, 20))
        send(head, 2)
        with pytest.raises(LocalProtocolError):
            send(head)

    def test_nor_is_a_loop_begun_that_would_go_beyond(self):
        head = a_head(sealed=False, funded_rows=4)
        with pytest.raises(LocalProtocolError, match="paid for"):
            send(head, loop=4)
        send(head, loop=3)

    def test_an_extension_that_a_repair_overtakes_is_void(self):
        head = funded_head(4)
        head.send_extend(6, [10, 20, 30])
        head.repair(head.route, frozenset({1}))
        assert not any(head.accept_extended(index, Extended(SESSION, 99)) for index in range(3))
        assert head.funded_rows == 4

    def test_another_sessions_word_is_refused(self):
        head = funded_head(4)
        head.send_extend(6, [10, 20, 30])
        with pytest.raises(RemoteProtocolError):
            head.accept_extended(0, Extended(bytes(16), 10))


class TestHop:
    def hop(self, rows):
        return a_hop(window=100, credit=100, work_max=Work(rows * LAYERS, 0, 10**6, 10**6))

    def test_a_row_beyond_the_lease_is_not_run(self):
        hop = self.hop(5)
        first = step(0, 5, step=StepKind.PREFILL)
        hop.check_covered(first)
        run(hop, first)
        further = step(5, 1, step=StepKind.PREFILL)
        with pytest.raises(SessionError, match="beyond what the lease pays for"):
            hop.check_covered(further)
        hop.accept_extend(Work(6 * LAYERS, 0, 10**6, 10**6))
        hop.check_covered(further)

    def test_limits_are_never_lowered(self):
        hop = self.hop(5)
        with pytest.raises(RemoteProtocolError, match="cannot lower"):
            hop.accept_extend(Work(4 * LAYERS, 0, 10**6, 10**6))

    def test_without_a_lease_there_is_nothing_to_extend(self):
        with pytest.raises(RemoteProtocolError, match="without a lease"):
            a_hop().accept_extend(Work())
