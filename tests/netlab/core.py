"""The router in the middle that stands for the internet, with a public network for each node."""

from typing import TYPE_CHECKING, Final

from tests.netlab.addresses import Block
from tests.netlab.link import Shape
from tests.netlab.namespace import LabError
from tests.netlab.nat import WAN
from tests.netlab.node import Node
from tests.netlab.router import Router

if TYPE_CHECKING:
    from tests.netlab.lab import Lab

__all__ = ["Core"]

_PARTITIONS: Final = """
table ip core {
    set parted { type ipv4_addr . ipv4_addr; }
    chain through {
        type filter hook forward priority filter
        ip saddr . ip daddr @parted drop
    }
}
"""


class Core:
    """Forwards between the public networks; the rest goes to the void."""

    def __init__(self, lab: "Lab") -> None:
        self._lab = lab
        self._block_of: dict[Node, Block] = {}
        self.namespace = lab.new_namespace("core")
        self.namespace.set_kernel(ipv4__ip_forward=1)
        if lab.ipv6:
            self.namespace.set_kernel(ipv6__conf__all__forwarding=1)
        self.namespace.nft(_PARTITIONS)
        lab.void.drain(lab, self.namespace)

    def attach(
        self, node: Node, interface: str, block: Block, shape: Shape, addresses: int = 1
    ) -> None:
        """Connect a node; it gets the first addresses of the block."""
        far = f"net{len(self._block_of) + 1}"
        self._block_of[node] = block
        link = self._lab.connect(node.namespace, interface, self.namespace, far, shape)
        prefix = block.network.prefixlen
        ips = [block.take() for _ in range(addresses)]
        self.namespace.ip(f"addr add {block.gateway}/{prefix} dev {far}")
        node.namespace.ip(
            *(f"addr add {ip}/{prefix} dev {interface}" for ip in ips),
            f"route add default via {block.gateway}",
        )
        for ip in ips:
            link.introduce(ip, block.gateway)
        ipv6 = str(block.ipv6_outside[2]) if self._lab.ipv6 else None
        node.attach(link, ips, ipv6)
        if ipv6:
            self._attach_ipv6(node, interface, far, block)
        if isinstance(node, Router) and node.nat.is_routed:
            self.namespace.ip(f"route add {node.inside} via {node.ip}")

    def _attach_ipv6(self, node: Node, interface: str, far: str, block: Block) -> None:
        gateway = str(block.ipv6_outside[1])
        self.namespace.ip(f"addr add {gateway}/64 dev {far} nodad", ipv6=True)
        node.namespace.ip(
            f"addr add {node.ipv6}/64 dev {interface} nodad",
            f"route add default via {gateway}",
            ipv6=True,
        )
        node.link.introduce(str(node.ipv6), gateway)
        if isinstance(node, Router):
            self.namespace.ip(f"route add {block.ipv6_inside} via {node.ipv6}", ipv6=True)

    def readdress(self, router: Router) -> None:
        """Give a router's outside the next address of its block."""
        if router.nat.is_routed:
            raise LabError(f"{router.name} is routed: its hosts would need new addresses as well.")
        block = self._block_of[router]
        ip, prefix = block.take(), block.network.prefixlen
        router.namespace.ip(
            f"addr del {router.ip}/{prefix} dev {WAN}",
            f"addr add {ip}/{prefix} dev {WAN}",
            f"route replace default via {block.gateway}",
        )
        router.addresses[0] = ip
        router.link.introduce(ip, block.gateway)

    def part(self, one: str, other: str) -> None:
        """Two addresses no longer hear each other."""
        pairs = f"{one} . {other}, {other} . {one}"
        self.namespace.nft(f"add element ip core parted {{ {pairs} }}\n")

    def reunite(self) -> None:
        """All hear each other again."""
        self.namespace.nft("flush set ip core parted\n")
