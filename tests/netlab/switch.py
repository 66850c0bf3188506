"""A bridge that hosts plug into, with a gateway address: a home's inside, or a LAN of its own."""

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any

from tests.netlab.link import Shape
from tests.netlab.nat import LAN
from tests.netlab.node import Host, Node

if TYPE_CHECKING:
    from tests.netlab.lab import Lab

__all__ = ["Switch"]


class Switch(Node):
    """Its hosts hear each other's multicast; what is for others goes to the gateway, itself."""

    def __init__(
        self, lab: "Lab", name: str, inside: IPv4Network, inside_ipv6: IPv6Network | None
    ) -> None:
        super().__init__(lab, name)
        self.inside, self.inside_ipv6 = inside, inside_ipv6
        self.hosts: list[Host] = []
        self._plugged = 1
        self._mac = lab.new_mac()
        self.namespace.ip(
            f"link add {LAN} type bridge mcast_snooping 0",
            f"link set {LAN} address {self._mac}",  # or it changes as hosts plug in
            f"addr add {self.gateway}/{inside.prefixlen} dev {LAN}",
            f"link set {LAN} up",
        )
        self.namespace.set_kernel(ipv4__ip_forward=1)
        if inside_ipv6:
            self.namespace.set_kernel(ipv6__conf__all__forwarding=1)
            self.namespace.ip(f"addr add {inside_ipv6[1]}/64 dev {LAN} nodad", ipv6=True)

    @property
    def gateway(self) -> str:
        return str(self.inside[1])

    def host(self, name: str, **shape: Any) -> Host:
        """Another host; `shape` is its own link's."""
        host = Host(self.lab, name)
        self.plug(host, "eth0", Shape(**shape))
        self.hosts.append(host)
        return host

    def plug(self, node: Node, interface: str, shape: Shape) -> None:
        """Connect a host, or the outside of a router, with the next address."""
        ip = self._take_ip()
        link = self.lab.connect(
            node.namespace, interface, self.namespace, f"port{self._plugged}", shape
        )
        self.namespace.ip(f"link set {link.far.interface} master {LAN}")
        node.namespace.ip(
            f"addr add {ip}/{self.inside.prefixlen} dev {interface}",
            f"route add default via {self.gateway}",
        )
        ipv6 = None
        if (inside := self.inside_ipv6) is not None:
            ipv6 = str(inside[self._plugged])
            node.namespace.ip(
                f"addr add {ipv6}/64 dev {interface} nodad",
                f"route add default via {inside[1]}",
                ipv6=True,
            )
        node.plugged_into = self
        node.attach(link, [ip], ipv6)
        self.introduce(node)

    def introduce(self, node: Node) -> None:
        """A node and the gateway know each other's hardware address without asking."""
        link = node.link
        link.near.know(self.gateway, self._mac)
        self.namespace.ip(f"neigh replace {node.ip} lladdr {link.near.mac} dev {LAN} nud permanent")

    def readdress(self, node: Node) -> None:
        """Give the outside of a plugged-in router the next address."""
        before, node.addresses[0] = node.ip, self._take_ip()
        prefix, interface = self.inside.prefixlen, node.link.near.interface
        node.namespace.ip(
            f"addr del {before}/{prefix} dev {interface}",
            f"addr add {node.ip}/{prefix} dev {interface}",
            f"route replace default via {self.gateway}",
        )
        self.introduce(node)

    def _take_ip(self) -> str:
        self._plugged += 1
        return str(self.inside[self._plugged])
