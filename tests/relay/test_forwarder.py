import random
from dataclasses import replace

import pytest

from protocol.datagram import Bind, Bound, is_genuine
from protocol.identity import PeerId
from relay.errors import RequestRefused
from relay.forwarder import Forwarder, Grant
from relay.resources import ForwarderLimits
from relay.usage import MONTH_S, DropReason
from tests.binding import bind_at, with_cookie

OWNER, OTHER, THIRD = (PeerId(bytes([index]) * 32) for index in (1, 2, 3))
HOME_A, HOME_B, STRANGER = ("192.0.2.1", 4001), ("198.51.100.2", 4002), ("203.0.113.3", 4003)
LIMITS = ForwarderLimits()


def prefix_of(grant: Grant) -> bytes:
    return b"\x08" + grant.circuit


def bound_forwarder(limits: ForwarderLimits = LIMITS) -> tuple[Forwarder, Grant]:
    forwarder = Forwarder(limits)
    grant = forwarder.allocate(OWNER, OTHER, 0)
    assert isinstance(bind(forwarder, grant, 0, 1, HOME_A), bytes)
    assert isinstance(bind(forwarder, grant, 1, 1, HOME_B), bytes)
    return forwarder, grant


def bind(forwarder, grant, side, counter, source, *, now=0.0, port=0) -> bytes | DropReason:
    asked = Bind(grant.circuit, side, counter)
    return bind_at(forwarder, asked, grant.secrets[side], source, port=port, now=now)


def bind_once(forwarder, grant, side, counter, source, cookie=bytes(8), *, now=0.0, port=0):
    data = Bind(grant.circuit, side, counter, cookie).encode(grant.secrets[side])
    answer = forwarder.bind(data, source, port, now)
    assert len(answer) == len(data)
    return Bound.decode(answer)


def target_of(forwarder, grant, source, *, count=1, size=1000, now=0.0):
    side = forwarder.route(prefix_of(grant), source, count, size, now)
    return None if side is None else side.address


class TestAllocate:
    def test_a_grant_is_new_and_its_secrets_differ(self):
        forwarder = Forwarder(LIMITS)
        grants = [forwarder.allocate(OWNER, OTHER, 5) for _ in range(3)]
        assert len({grant.circuit for grant in grants}) == 3
        assert len({secret for grant in grants for secret in grant.secrets}) == 6
        assert {len(secret) for grant in grants for secret in grant.secrets} == {32}
        assert grants[0].expires_at == 5 + LIMITS.idle_s

    def test_a_peer_owns_so_many_and_no_more_but_may_be_called_by_others(self):
        forwarder = Forwarder(replace(LIMITS, circuits_per_peer_max=2))
        forwarder.allocate(OWNER, OTHER, 0)
        last = forwarder.allocate(OWNER, THIRD, 0)
        with pytest.raises(RequestRefused) as refused:
            forwarder.allocate(OWNER, OTHER, 0)
        assert refused.value.reason == "forwarder.circuits_per_peer_max"
        forwarder.allocate(OTHER, OWNER, 0)
        forwarder.release(last.circuit)
        forwarder.allocate(OWNER, OTHER, 0)

    def test_the_relay_has_so_many_in_all_and_idle_ones_make_room(self):
        forwarder = Forwarder(replace(LIMITS, circuits_max=2))
        forwarder.allocate(OWNER, OTHER, 0)
        forwarder.allocate(OTHER, OWNER, 100)
        with pytest.raises(RequestRefused) as refused:
            forwarder.allocate(THIRD, OWNER, 100)
        assert refused.value.reason == "forwarder.circuits_max"
        forwarder.allocate(THIRD, OWNER, LIMITS.idle_s)
        assert forwarder.statistics().circuits == 2


class TestBind:
    def test_the_answer_is_sealed_and_says_whether_the_other_side_is_there(self):
        forwarder = Forwarder(LIMITS)
        grant = forwarder.allocate(OWNER, OTHER, 0)
        first = bind(forwarder, grant, 0, 7, HOME_A)
        second = bind(forwarder, grant, 1, 1, HOME_B)
        assert is_genuine(first, grant.secrets[0])
        assert is_genuine(second, grant.secrets[1])
        for answer, said in (
            (first, Bound(grant.circuit, 0, 7, is_other_bound=False)),
            (second, Bound(grant.circuit, 1, 1, is_other_bound=True)),
        ):
            assert replace(Bound.decode(answer), cookie=said.cookie) == said

    def test_a_bind_sealed_with_the_other_sides_secret_moves_nothing(self):
        forwarder, grant = bound_forwarder()
        forged = Bind(grant.circuit, 0, 9).encode(grant.secrets[1])
        assert forwarder.bind(forged, STRANGER, 0, 0) is DropReason.FORGED_BIND
        assert target_of(forwarder, grant, HOME_A) == HOME_B

    def test_a_bind_sent_again_moves_nothing(self):
        forwarder, grant = bound_forwarder()
        assert bind(forwarder, grant, 0, 1, STRANGER) is DropReason.REPLAYED_BIND
        assert target_of(forwarder, grant, STRANGER) is None
        assert target_of(forwarder, grant, HOME_B) == HOME_A

    def test_a_bind_of_an_unknown_circuit_is_not_answered(self):
        forwarder = Forwarder(LIMITS)
        data = Bind(bytes(8), 0, 1).encode(bytes(32))
        assert forwarder.bind(data, STRANGER, 0, 0) is DropReason.FORGED_BIND

    @pytest.mark.parametrize("size", [9, 35, 42, 44, 200])
    def test_a_bind_of_another_length_is_malformed(self, size):
        forwarder = Forwarder(LIMITS)
        assert forwarder.bind(b"\x06" * size, STRANGER, 0, 0) is DropReason.MALFORMED

    def test_after_a_nat_change_a_higher_counter_moves_the_side(self):
        forwarder, grant = bound_forwarder()
        bind(forwarder, grant, 0, 2, STRANGER)
        assert target_of(forwarder, grant, STRANGER) == HOME_B
        assert target_of(forwarder, grant, HOME_B) == STRANGER
        assert target_of(forwarder, grant, HOME_A) is None

    def test_a_side_keeps_the_port_at_which_it_was_bound(self):
        forwarder, grant = bound_forwarder()
        bind(forwarder, grant, 1, 2, HOME_B, port=1)
        side = forwarder.route(prefix_of(grant), HOME_A, 1, 1000, 0)
        assert (side.address, side.port) == (HOME_B, 1)


class TestReturnRoutability:
    """`STRANGER` is a victim: the owner holds both secrets and writes that address as source."""

    @pytest.mark.parametrize("is_bound_elsewhere", [False, True])
    def test_a_made_up_source_is_never_forwarded_to(self, is_bound_elsewhere):
        forwarder = Forwarder(LIMITS)
        grant = forwarder.allocate(OWNER, OWNER, 0)
        bind(forwarder, grant, 0, 1, HOME_A)
        if is_bound_elsewhere:
            bind(forwarder, grant, 1, 1, HOME_B)
        draw = random.Random(1)
        mine = bind_once(forwarder, grant, 1, 2, HOME_A).cookie
        for counter, cookie in enumerate([bytes(8), mine, *map(draw.randbytes, [8] * 500)], 2):
            assert not bind_once(forwarder, grant, 1, counter, STRANGER, cookie).is_bound
            assert target_of(forwarder, grant, HOME_A) == (HOME_B if is_bound_elsewhere else None)
            assert target_of(forwarder, grant, STRANGER) is None
        assert forwarder.statistics().binds == 1 + is_bound_elsewhere

    def test_the_cookie_of_another_place_is_refused(self):
        """Another host, port, port of the relay, side, circuit, or relay."""
        forwarder = Forwarder(LIMITS)
        grant, second = (forwarder.allocate(OWNER, OTHER, 0) for _ in range(2))
        host, number = HOME_A
        elsewhere = Forwarder(LIMITS)
        foreign = elsewhere.allocate(OWNER, OTHER, 0)
        others = [
            bind_once(forwarder, grant, 0, 1, ("192.0.2.11", number)),
            bind_once(forwarder, grant, 0, 1, (host, number + 1)),
            bind_once(forwarder, grant, 0, 1, ("::ffff:192.0.2.1", number, 0, 0)),
            bind_once(forwarder, grant, 0, 1, HOME_A, port=1),
            bind_once(forwarder, grant, 1, 1, HOME_A),
            bind_once(forwarder, second, 0, 1, HOME_A),
            bind_once(elsewhere, foreign, 0, 1, HOME_A),
        ]
        right = bind_once(forwarder, grant, 0, 1, HOME_A).cookie
        assert len({right, *(each.cookie for each in others)}) == len(others) + 1
        for counter, other in enumerate(others, 1):
            assert not bind_once(forwarder, grant, 0, counter, HOME_A, other.cookie).is_bound
        assert forwarder.statistics().binds == 0
        assert bind_once(forwarder, grant, 0, 1, HOME_A, right).is_bound

    def test_a_rebind_from_a_new_address_needs_the_new_cookie(self):
        forwarder, grant = bound_forwarder()
        old = bind_once(forwarder, grant, 0, 2, HOME_A).cookie
        asked = bind_once(forwarder, grant, 0, 3, STRANGER, old)
        assert not asked.is_bound
        assert target_of(forwarder, grant, HOME_B) == HOME_A
        assert bind_once(forwarder, grant, 0, 4, STRANGER, asked.cookie).is_bound
        assert target_of(forwarder, grant, HOME_B) == STRANGER

    def test_a_cookie_serves_until_the_address_changes(self):
        forwarder, grant = bound_forwarder()
        cookie = bind_once(forwarder, grant, 0, 2, HOME_A).cookie
        assert bind_once(forwarder, grant, 0, 3, HOME_A, cookie, now=1e6).is_bound
        assert bind_once(forwarder, grant, 0, 4, HOME_A, cookie, now=2e6).is_bound

    def test_a_bind_without_cookie_uses_up_no_counter_and_keeps_no_circuit(self):
        forwarder = Forwarder(LIMITS)
        grant = forwarder.allocate(OWNER, OTHER, 0)
        cookie = bind_once(forwarder, grant, 0, 2**63, HOME_A, now=100).cookie
        assert bind_once(forwarder, grant, 0, 1, HOME_A, cookie).is_bound
        bind_once(forwarder, grant, 0, 2, STRANGER, cookie, now=100)
        assert forwarder.expire(LIMITS.idle_s) == 1

    def test_a_bind_with_its_cookie_sent_again_from_elsewhere_moves_nothing(self):
        forwarder = Forwarder(LIMITS)
        grant = forwarder.allocate(OWNER, OTHER, 0)
        asked, secret = Bind(grant.circuit, 0, 1), grant.secrets[0]
        answer = forwarder.bind(asked.encode(secret), HOME_A, 0, 0)
        caught = with_cookie(asked, answer).encode(secret)
        assert not Bound.decode(forwarder.bind(caught, STRANGER, 0, 0)).is_bound
        assert Bound.decode(forwarder.bind(caught, HOME_A, 0, 0)).is_bound
        assert forwarder.bind(caught, STRANGER, 0, 0) is DropReason.REPLAYED_BIND

    def test_the_refusal_says_whether_the_other_side_is_bound(self):
        forwarder, grant = bound_forwarder()
        assert bind_once(forwarder, grant, 0, 2, STRANGER).is_other_bound


class TestRoute:
    def test_each_side_reaches_the_other(self):
        forwarder, grant = bound_forwarder()
        assert target_of(forwarder, grant, HOME_A) == HOME_B
        assert target_of(forwarder, grant, HOME_B) == HOME_A

    def test_drops_are_counted_by_reason(self):
        forwarder, grant = bound_forwarder()
        half = forwarder.allocate(OWNER, OTHER, 0)
        bind(forwarder, half, 0, 1, HOME_A)
        assert forwarder.route(b"\x08" + bytes(8), HOME_A, 3, 3000, 0) is None
        assert target_of(forwarder, grant, STRANGER, count=4) is None
        assert target_of(forwarder, half, HOME_A, count=5) is None
        assert forwarder.statistics().drops == {
            DropReason.UNKNOWN_CIRCUIT: 3,
            DropReason.WRONG_SOURCE: 4,
            DropReason.UNBOUND: 5,
        }
        assert forwarder.usage.statistics_of(OWNER).drops == {DropReason.UNBOUND: 5}

    def test_an_unbound_side_has_no_source(self):
        forwarder = Forwarder(LIMITS)
        grant = forwarder.allocate(OWNER, OTHER, 0)
        assert target_of(forwarder, grant, HOME_A) is None

    def test_both_peers_are_metered_in_both_directions(self):
        forwarder, grant = bound_forwarder()
        target_of(forwarder, grant, HOME_A, count=3, size=4000)
        target_of(forwarder, grant, HOME_B, count=1, size=500)
        owner, other = map(forwarder.usage.statistics_of, (OWNER, OTHER))
        assert (owner.datagrams_from, owner.bytes_from) == (3, 4000)
        assert (owner.datagrams_to, owner.bytes_to) == (1, 500)
        assert (other.datagrams_from, other.bytes_from) == (1, 500)
        assert (other.datagrams_to, other.bytes_to) == (3, 4000)
        assert (owner.month_bytes, other.month_bytes) == (4500, 0)
        counts = forwarder.statistics()
        assert (counts.datagrams, counts.bytes, counts.binds) == (4, 4500, 2)


class TestAllowance:
    LIMITS = replace(LIMITS, bytes_per_s_max=100_000, burst_bytes=70_000)

    def test_the_owners_rate_bounds_all_its_circuits_together(self):
        forwarder, first = bound_forwarder(self.LIMITS)
        second = forwarder.allocate(OWNER, THIRD, 0)
        bind(forwarder, second, 0, 1, HOME_A)
        bind(forwarder, second, 1, 1, STRANGER)
        assert target_of(forwarder, first, HOME_A, size=40_000)
        assert target_of(forwarder, second, STRANGER, size=30_000)
        assert target_of(forwarder, first, HOME_B, size=1000) is None
        assert forwarder.drops == {DropReason.BYTES_PER_S_MAX: 1}
        assert target_of(forwarder, first, HOME_B, size=1000, now=0.01)

    def test_a_run_above_what_is_left_goes_and_is_owed(self):
        forwarder, grant = bound_forwarder(self.LIMITS)
        assert target_of(forwarder, grant, HOME_A, size=170_000)
        assert target_of(forwarder, grant, HOME_A, now=0.99) is None
        assert target_of(forwarder, grant, HOME_A, now=1.01)

    def test_what_others_own_does_not_use_it_up(self):
        forwarder, grant = bound_forwarder(self.LIMITS)
        foreign = forwarder.allocate(OTHER, OWNER, 0)
        bind(forwarder, foreign, 0, 1, HOME_B)
        bind(forwarder, foreign, 1, 1, HOME_A)
        assert target_of(forwarder, foreign, HOME_B, size=70_000)
        assert target_of(forwarder, grant, HOME_A, size=70_000)

    def test_releasing_and_asking_again_does_not_fill_it(self):
        forwarder, grant = bound_forwarder(self.LIMITS)
        target_of(forwarder, grant, HOME_A, size=70_000)
        forwarder.release(grant.circuit)
        again = forwarder.allocate(OWNER, OTHER, 0)
        bind(forwarder, again, 0, 1, HOME_A)
        bind(forwarder, again, 1, 1, HOME_B)
        assert target_of(forwarder, again, HOME_A) is None

    def test_a_month_has_so_many_bytes_and_then_another_begins(self):
        forwarder, grant = bound_forwarder(replace(LIMITS, month_bytes_max=5000))
        assert target_of(forwarder, grant, HOME_A, size=4500)
        assert target_of(forwarder, grant, HOME_A, size=501) is None
        assert forwarder.drops == {DropReason.MONTH_BYTES_MAX: 1}
        assert target_of(forwarder, grant, HOME_A, size=5000, now=MONTH_S)


class TestEnd:
    def test_an_idle_circuit_expires_and_a_used_one_does_not(self):
        forwarder, used = bound_forwarder()
        idle = forwarder.allocate(OWNER, THIRD, 0)
        rebound = forwarder.allocate(OWNER, THIRD, 0)
        target_of(forwarder, used, HOME_A, now=100)
        bind(forwarder, rebound, 0, 1, HOME_A, now=100)
        assert forwarder.expire(LIMITS.idle_s - 0.1) == 0
        assert forwarder.expire(LIMITS.idle_s) == 1
        assert target_of(forwarder, used, HOME_A, now=LIMITS.idle_s)
        assert bind(forwarder, idle, 0, 1, HOME_A) is DropReason.FORGED_BIND
        assert forwarder.expire(1000) == 2
        assert forwarder.statistics().circuits_expired == 3

    def test_what_is_dropped_does_not_keep_a_circuit(self):
        forwarder, grant = bound_forwarder()
        target_of(forwarder, grant, STRANGER, now=100)
        assert forwarder.expire(LIMITS.idle_s) == 1

    def test_release_ends_one_circuit_and_no_other(self):
        forwarder, first = bound_forwarder()
        second, foreign = (forwarder.allocate(a, b, 0) for a, b in ((OWNER, THIRD), (THIRD, OWNER)))
        forwarder.release(first.circuit)
        forwarder.release(first.circuit)
        forwarder.release(bytes(8))
        assert target_of(forwarder, first, HOME_A) is None
        assert forwarder.circuits_of(OWNER) == 1
        forwarder.release(second.circuit)
        assert forwarder.circuits_of(OWNER) == 0
        assert bind(forwarder, second, 0, 1, HOME_A) is DropReason.FORGED_BIND
        assert isinstance(bind(forwarder, foreign, 0, 1, HOME_A), bytes)

    def test_nothing_is_left_of_what_has_ended_but_a_bounded_table_of_usage(self):
        forwarder = Forwarder(replace(LIMITS, circuits_max=50, peers_max=100))
        draw = random.Random(1)
        for now in range(1000):
            forwarder.allocate(PeerId(draw.randbytes(32)), PeerId(draw.randbytes(32)), now * 10)
            forwarder.expire(now * 10)
        assert forwarder.statistics().circuits <= LIMITS.idle_s / 10
        assert len(forwarder.usage) == 100
        forwarder.expire(1e9)
        assert not forwarder._circuits
        assert not forwarder._of_owner


class TestUsage:
    def test_the_largest_come_first(self):
        forwarder, grant = bound_forwarder()
        quiet = forwarder.allocate(THIRD, OTHER, 0)
        target_of(forwarder, grant, HOME_A, size=5000)
        assert forwarder.usage.largest(1)[0].peer_id in (OWNER, OTHER)
        assert [each.peer_id for each in forwarder.usage.largest(9)][-1] == THIRD
        assert forwarder.usage.statistics_of(OTHER).circuits == 2
        forwarder.release(quiet.circuit)
        assert forwarder.usage.statistics_of(OTHER).circuits == 1

    def test_a_peer_with_a_circuit_is_not_forgotten(self):
        forwarder = Forwarder(replace(LIMITS, circuits_max=2, peers_max=4))
        forwarder.allocate(OWNER, OTHER, 0)
        for index in range(10, 30):
            grant = forwarder.allocate(PeerId(bytes([index]) * 32), THIRD, 0)
            forwarder.release(grant.circuit)
        assert len(forwarder.usage) == 4
        assert forwarder.usage.statistics_of(OWNER).circuits == 1
        assert forwarder.usage.statistics_of(OTHER).circuits == 1
