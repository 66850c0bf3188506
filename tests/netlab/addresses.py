"""Which public networks a laboratory has, and which address of one comes next. Pure."""

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from tests.netlab.namespace import LabError

__all__ = ["POOLS", "Block", "draw_blocks"]

# Software may refuse the addresses that are set aside for documentation, as not global. The
# others belong to somebody; nothing here ever reaches them.
POOLS: Final = {
    "testnet": (("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24"), "2001:db8"),
    "global": (("5.6.7.0/24", "5.6.8.0/24", "5.6.9.0/24", "5.6.10.0/24"), "2a0d:5606"),
}
BLOCK_PREFIX: Final = 28
HOSTS: Final = range(2, 15)  # of a /28: without network, gateway and broadcast


class Block:
    """A public IPv4 network, and an IPv6 network for each side of the router on it."""

    def __init__(self, network: IPv4Network, ipv6_pool: str, number: int) -> None:
        self.network = network
        self.gateway = str(network[1])
        self.ipv6_outside = IPv6Network(f"{ipv6_pool}:{number:x}:0::/64")
        self.ipv6_inside = IPv6Network(f"{ipv6_pool}:{number:x}:1::/64")
        self._next = 0

    def take(self) -> str:
        """The next address; after the last, the first comes again."""
        address = self.network[HOSTS[self._next % len(HOSTS)]]
        self._next += 1
        return str(address)


def draw_blocks(pool: str) -> Iterator[Block]:
    """The blocks of that pool, one after the other; raises LabError when there are no more."""
    networks, ipv6_pool = POOLS[pool]
    number = 0
    for network in networks:
        for block in IPv4Network(network).subnets(new_prefix=BLOCK_PREFIX):
            number += 1
            yield Block(block, ipv6_pool, number)
    raise LabError(f"A laboratory has room for {number} public networks, and they are used up.")
