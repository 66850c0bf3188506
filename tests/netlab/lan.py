"""Several machines on one switch, with multicast, and no way out: what leaves is counted."""

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from tests.netlab.switch import Switch

if TYPE_CHECKING:
    from tests.netlab.lab import Lab

__all__ = ["Lan"]


class Lan(Switch):
    """Its hosts have a default route like any, which ends in the void (Lab.outside_packets)."""

    def __init__(
        self, lab: "Lab", name: str, inside: IPv4Network, inside_ipv6: IPv6Network | None
    ) -> None:
        super().__init__(lab, name, inside, inside_ipv6)
        lab.void.drain(lab, self.namespace)
