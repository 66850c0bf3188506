import contextlib

import pytest

from relay.errors import RequestRefused
from relay.reservations import CircuitCounts, Reservations, network_of
from relay.resources import CircuitLimits
from tests.relay.control_pair import RelayHost, peer_id


@pytest.mark.parametrize(
    ("remote", "network"),
    [
        ("203.0.113.7:5000", "203.0.113.7"),
        ("[2001:db8:1:2:3::4]:5000", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3::4:5000", "2001:db8:1:2::/64"),
        ("[fe80::1%eth0]:5000", "fe80::/64"),
        ("[::ffff:203.0.113.7]:5000", "203.0.113.7"),
        ("somewhere:1", "somewhere"),
    ],
)
def test_network_is_the_household(remote, network):
    assert network_of(remote) == network


async def test_full_table_makes_room_of_what_has_expired():
    host = RelayHost()
    reservations = Reservations(CircuitLimits(reservations_max=2, reservation_duration_s=60))
    reservations.reserve(host.join("a"), now=0.0)
    reservations.reserve(host.join("b"), now=50.0)
    with pytest.raises(RequestRefused):
        reservations.reserve(host.join("c"), now=59.0)
    reservations.reserve(host.join("c"), now=60.0)
    assert reservations.find(peer_id("a"), 60.0) is None
    assert reservations.find(peer_id("b"), 60.0) is not None
    assert len(reservations) == 2


async def test_thousand_slots_are_kept_renewed_and_expired():
    host = RelayHost()
    limits = CircuitLimits(reservations_per_host_max=1000)
    reservations = Reservations(limits)
    peers = [host.join(str(index)) for index in range(1000)]
    for now in (0.0, 1.0):
        for peer in peers:
            reservations.reserve(peer, now)
    assert len(reservations) == 1000
    reservations.expire(1.0 + limits.reservation_duration_s)
    assert len(reservations) == 0


async def test_peer_that_moves_leaves_its_old_household():
    host = RelayHost()
    reservations = Reservations(CircuitLimits(reservations_per_host_max=1))
    reservations.reserve(host.join("a", remote="203.0.113.7:1"), now=0.0)
    reservations.reserve(host.join("a", remote="203.0.113.8:1"), now=0.0)
    reservations.reserve(host.join("b", remote="203.0.113.7:1"), now=0.0)
    with pytest.raises(RequestRefused):
        reservations.reserve(host.join("c", remote="203.0.113.8:1"), now=0.0)


def test_claims_are_given_back_whatever_happens():
    counts = CircuitCounts(CircuitLimits(circuits_per_peer_max=1))
    caller, called, third = peer_id("a"), peer_id("b"), peer_id("c")
    with contextlib.suppress(RuntimeError), counts.claim(caller, called, "x"):
        with pytest.raises(RequestRefused), counts.claim(third, called, "x"):
            pass
        assert counts.count == 1
        raise RuntimeError
    assert counts.count == 0
    with counts.claim(third, called, "x"):
        pass
