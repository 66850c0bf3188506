import contextlib

import pytest

from relay.errors import RequestRefused
from relay.requests import PENDING_PER_PEER_MAX, RequestGate
from relay.resources import CircuitLimits
from tests.relay.control_pair import peer_id


def use_up(gate, name):
    with contextlib.suppress(RequestRefused):
        for _ in range(3):
            gate.admit(peer_id(name))


def test_peers_have_allowances_of_their_own():
    gate = RequestGate(CircuitLimits(requests_per_peer_per_s=0.001, requests_per_peer_burst=1))
    use_up(gate, "a")
    gate.admit(peer_id("b"))
    with pytest.raises(RequestRefused, match=r"circuits\.requests_per_peer_per_s"):
        gate.admit(peer_id("a"))


def test_peers_that_are_remembered_are_bounded():
    limits = CircuitLimits(
        requests_per_peer_per_s=0.001, requests_per_peer_burst=1, requests_peers_max=2
    )
    gate = RequestGate(limits)
    for name in "abc":
        use_up(gate, name)
    gate.admit(peer_id("a"))  # the longest unheard was forgotten, and begins anew
    with pytest.raises(RequestRefused):
        gate.admit(peer_id("c"))


def test_requests_under_way_are_few_per_peer():
    gate = RequestGate(CircuitLimits())
    held = [gate.pending(peer_id("a")) for _ in range(PENDING_PER_PEER_MAX)]
    for each in held:
        each.__enter__()
    with pytest.raises(RequestRefused), gate.pending(peer_id("a")):
        pass
    with gate.pending(peer_id("b")):
        pass
    held[0].__exit__(None, None, None)
    with gate.pending(peer_id("a")):
        pass


def test_draining_gate_admits_nobody():
    gate = RequestGate(CircuitLimits())
    gate.is_draining = True
    with pytest.raises(RequestRefused, match="shutting down"):
        gate.admit(peer_id("a"))
