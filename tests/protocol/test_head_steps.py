"""Steps at their head: taken back while under way, and sent on by the last hop itself."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frame import LOOP_MAX, Result, Step, StepKind
from protocol.session import STEPS_IN_FLIGHT_MAX
from protocol.tensor import payload_hash
from tests.protocol.alone import (
    a_head,
    back,
    opened,
    send,
    token_rows,
)
from tests.protocol.ring import Ring


class TestTruncate:
    def test_results_of_void_steps_are_counted_and_not_given(self):
        head = a_head()
        tickets = [send(head, 3, 3), send(head), send(head)]
        head.send_truncate(3)
        fresh = send(head)
        assert (fresh.position, head.in_flight) == (3, 4)
        assert back(head, tickets[0]) == tickets[0]
        assert back(head, tickets[1]) is None
        assert back(head, tickets[2]) is None
        assert (head.rows_arrived, head.results, head.in_flight) == (3, 3, 1)
        assert back(head, fresh) == fresh
        assert head.rows_arrived == 4

    def test_void_steps_take_their_place_until_they_are_back(self):
        head = a_head()
        for _ in range(STEPS_IN_FLIGHT_MAX):
            send(head)
        head.send_truncate(0)
        with pytest.raises(LocalProtocolError, match="Too many"):
            send(head)

    @pytest.mark.parametrize("position", [-1, 1, 2, 5])
    def test_it_falls_between_steps_and_not_ahead_of_them(self, position):
        head = a_head()
        send(head, 3, 3)
        send(head)
        with pytest.raises(LocalProtocolError):
            head.send_truncate(position)
        assert (head.position, head.in_flight) == (4, 2)

    @given(st.lists(st.integers(0, 99), max_size=40))
    def test_live_results_are_those_of_the_rows_that_stay(self, choices):
        """Against a list of rows: which step wrote each, and which are back."""
        head, flight, written, arrived = a_head(), deque(), [], 0
        for choice in choices:
            kind, number = choice % 4, choice // 4
            if kind < 2 and len(flight) < STEPS_IN_FLIGHT_MAX:
                ticket = send(head, 1 + number % 3, 1 + number % 3)
                assert ticket.position == len(written)
                written += [ticket] * ticket.count
                flight.append(ticket)
            elif kind == 2 and flight:
                ticket = flight.popleft()
                is_live = any(ticket is other for other in written)
                assert back(head, ticket) == (ticket if is_live else None)
                arrived = ticket.position + ticket.count if is_live else arrived
            elif kind == 3:
                position = number % (len(written) + 1)
                split = {id(t) for t in written[:position]} & {id(t) for t in written[position:]}
                if split & {id(ticket) for ticket in flight}:
                    continue
                head.send_truncate(position)
                del written[position:]
                arrived = min(arrived, position)
            assert (head.position, head.rows_arrived) == (len(written), arrived)


class TestLoop:
    def looping(self, loop):
        head = a_head(sealed=False)
        return head, send(head, loop=loop)

    def result(self, position, *, loop, token=5):
        return token_rows(Result, position, token, loop=loop)

    def test_steps_that_the_last_hop_sends_are_on_their_way_with_its_results(self):
        head, first = self.looping(3)
        assert head.accept_result(self.result(0, loop=1)) == first
        assert (head.in_flight, head.position, head.rows_arrived) == (1, 2, 1)
        fed = head.accept_result(self.result(1, loop=1, token=9))
        assert (fed.position, fed.loop, fed.kind) == (1, 2, StepKind.DECODE)
        assert fed.payload_sha256 == payload_hash((5).to_bytes(4, "little"))
        assert head.accept_result(self.result(2, loop=0)).position == 2
        assert (head.in_flight, head.position, head.results) == (0, 3, 3)
        send(head)

    def test_no_more_is_fed_on_than_was_asked_for(self):
        head, _ = self.looping(1)
        head.accept_result(self.result(0, loop=1))
        with pytest.raises(RemoteProtocolError, match="not asked"):
            head.accept_result(self.result(1, loop=1))

    @pytest.mark.parametrize("loop", [1, 2])
    def test_nothing_overtakes_what_the_last_hop_has_fed_on(self, loop):
        """Not even behind its last step, which is not on the stream that ours would be on."""
        head, _ = self.looping(loop)
        for position in range(loop):
            head.accept_result(self.result(position, loop=1))
            for action in (lambda: send(head), lambda: head.send_truncate(0)):
                with pytest.raises(LocalProtocolError, match="loop"):
                    action()
        head.accept_result(self.result(loop, loop=0))
        head.send_truncate(1)

    def test_a_repair_ends_it(self):
        head, _ = self.looping(9)
        head.accept_result(self.result(0, loop=1))
        head.repair(head.route, {1})
        for index in range(3):
            head.accept_opened(index, opened(index, 1, epoch=1))
        assert (head.position, head.in_flight) == (1, 0)
        assert head.accept_result(self.result(1, loop=1)) is None
        assert send(head).position == 1

    def test_hops_may_meter_all_of_it_before_its_first_result_is_here(self):
        ring = Ring(sealed=False, window=LOOP_MAX, credit=1000, capacity=1000)
        ring.send(loop=LOOP_MAX)
        for position in range(1 + LOOP_MAX):
            ring.carry(token_rows(Step, position, 0, loop=LOOP_MAX - position))
        assert len(ring.meters) == 3
        ring.deliver_meters()
        assert ring.head.payable() == []
