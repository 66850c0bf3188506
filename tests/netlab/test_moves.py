"""A stream under load while the ways beneath it come and go: nothing lost, nothing doubled."""

import time

import pytest

from tests.netlab.lab import Lab
from tests.netlab.nat import NatKind
from tests.netlab.programs import PeerProgram, RelayProgram
from tests.netlab.requirements import needs_lab

pytestmark = [needs_lab, pytest.mark.slow]

BYTES = 5_000_000
"""Two to four seconds at 20 Mbit/s, there and back."""

STALL_MAX_S = 5.0


class Two:
    """Two homes, a relay, and a connection between them."""

    def __init__(self, lab, *, parted=False):
        self.lab = lab
        self.relay = RelayProgram(lab.public("relay", delay_ms=10))
        self.homes = [
            lab.home(f"home{index}", nat=nat, delay_ms=10, up="20mbit", down="50mbit")
            for index, nat in enumerate((NatKind.PORT_RESTRICTED, NatKind.REMAPPING))
        ]
        self.peers = [
            PeerProgram(home.host(f"host{index}"), index + 1, [self.relay.address])
            for index, home in enumerate(self.homes)
        ]
        for peer in self.peers:
            peer.wait_started()
        if parted:
            lab.partition(*self.homes)
        self.met = self.reach(watch_s=2.5)

    def reach(self, watch_s):
        """Connect, or look at the connection; wait for a direct path for so long at most."""
        listener = self.peers[1]
        return self.peers[0].ask(
            "reach", peer=listener.peer_id, addresses=listener.addresses(), watch_s=watch_s
        )

    def transfer(self, what):
        """Send, and do `what` while it runs; how it went."""
        self.peers[0].tell("transfer", peer=self.peers[1].peer_id, bytes=BYTES)
        time.sleep(1.0)
        what()
        result = self.peers[0].hear(60)
        assert result.get("same") is True, result
        return result


@pytest.fixture
def lab():
    with Lab(pool="global") as lab:
        yield lab


def test_from_relayed_to_direct_in_the_middle_of_a_transfer(lab):
    two = Two(lab, parted=True)
    try:
        assert two.met["kind"] == "relayed"
        assert two.transfer(lab.reunite)["kinds"] == ["relayed", "punched"]
    finally:
        two.relay.close()


def test_a_direct_way_that_dies_a_router_that_reboots_and_a_relay_that_is_killed(lab):
    two = Two(lab)
    try:
        assert two.met["kind"] == "punched"
        fallen = two.transfer(lambda: lab.partition(*two.homes))
        assert fallen["kinds"] == ["punched", "relayed"]
        assert fallen["longest_s"] < STALL_MAX_S
        lab.reunite()
        for home in two.homes:
            rebooted = two.transfer(lambda: home.reboot(downtime_s=1.0, new_address=True))  # noqa: B023
            assert rebooted["longest_s"] < STALL_MAX_S
        assert two.reach(watch_s=20.0)["kind"] == "punched"
        two.transfer(two.relay.kill)
    finally:
        two.relay.close()
