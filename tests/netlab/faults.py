"""What happens to home routers and to the network between them, on purpose."""

import time
from typing import TYPE_CHECKING

from tests.netlab.nat import NatKind

if TYPE_CHECKING:
    from tests.netlab.lab import Lab
    from tests.netlab.node import Node
    from tests.netlab.router import Router

__all__ = ["flush", "partition", "reboot"]


def flush(router: "Router") -> None:
    """Every mapping is forgotten; the outside address and the range of ports stay."""
    if router.nat in (NatKind.FULL_CONE, NatKind.RESTRICTED):
        router.namespace.nft("flush map ip home inside\nflush set ip home spoken_to\n")
    router.namespace.forget_connections()


def reboot(router: "Router", downtime_s: float = 0.0, *, new_address: bool = False) -> None:
    """Silence for a while, every mapping lost, ports drawn anew, on demand another address.

    A router that keeps ports gives a host the same one after a reboot: to see mappings change,
    take `remapping`, `symmetric`, or a new address. Sleeps: call it in a thread from async tests.
    """
    router.cut()
    time.sleep(downtime_s)
    if new_address:
        (router.plugged_into or router.lab.core).readdress(router)
    router.start()  # before the link heals, so no packet finds an old mapping
    router.heal()


def partition(lab: "Lab", one: "Node", other: "Node") -> None:
    """The two no longer hear each other, by their outside addresses; all else goes on."""
    lab.core.part(lab.outside_ip(one), lab.outside_ip(other))
