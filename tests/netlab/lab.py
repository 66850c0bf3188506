"""A laboratory of networks in one machine's kernel: public hosts, homes behind NATs, LANs.

    with Lab(pool="global") as lab:
        relay = lab.public("relay", addresses=2)
        home = lab.home("ra", nat=NatKind.PORT_RESTRICTED, delay_ms=15, up="20mbit", down="100mbit")
        a = home.host("a")
        a.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", (relay.ip, 4001))

Every public host and home hangs on the core, a router that stands for the internet. What is
addressed to nobody here ends in the void, where `outside_packets` counts it.
"""

import atexit
import contextlib
import os
import secrets
import signal
import subprocess
import time
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from tests.netlab import faults
from tests.netlab.addresses import draw_blocks
from tests.netlab.core import Core
from tests.netlab.guard import remove_all, start_guard
from tests.netlab.lan import Lan
from tests.netlab.link import End, Link, Shape
from tests.netlab.namespace import Namespace
from tests.netlab.nat import WAN, NatKind
from tests.netlab.node import Host, Node
from tests.netlab.router import Router
from tests.netlab.void import OutsidePacket, Void
from tests.netlab.wire import Wires

__all__ = ["Lab"]

PREFIX: Final = "lab-"
EXIT_TIMEOUT_S: Final = 2.0  # a program in a node has this long to end when told to
MAPPING_TIMEOUT_S: Final = 120  # of a NAT's UDP mappings: Linux's, and what RFC 4787 asks for


class Lab:
    """Needs root. Everything is gone after `close`, after an exception, and after our SIGKILL."""

    def __init__(self, *, pool: str = "testnet", ipv6: bool = False) -> None:
        self.ipv6 = ipv6
        self.processes: list[subprocess.Popen[Any]] = []
        self._prefix = f"{PREFIX}{os.getpid():x}-{secrets.token_hex(2)}-"
        self._blocks = draw_blocks(pool)
        self._macs = self._insides = 0
        self._wires = Wires()
        self._is_closed = False
        self._guard = start_guard(self._prefix)
        atexit.register(self.close)
        try:
            self.void = Void(self.new_namespace("void"))
            self.core = Core(self)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def public(self, name: str, *, addresses: int = 1, **shape: Any) -> Host:
        """A host with public addresses, without a NAT or filter."""
        host = Host(self, name)
        self.core.attach(host, "eth0", next(self._blocks), Shape(**shape), addresses)
        return host

    def home(
        self,
        name: str,
        nat: NatKind | str = NatKind.PORT_RESTRICTED,
        *,
        behind: Router | None = None,
        mapping_timeout_s: int = MAPPING_TIMEOUT_S,
        **shape: Any,
    ) -> Router:
        """A home's router, on the core or `behind` another; `shape` is its access line's."""
        nat = NatKind(nat)
        if nat is NatKind.CGNAT:
            behind, nat = behind or self.carrier(f"{name}-carrier"), NatKind.PORT_RESTRICTED
        block = next(self._blocks)
        inside = next(self._blocks).network if nat.is_routed else self._private("192.168.{}.0/24")
        inside_ipv6 = block.ipv6_inside if self.ipv6 and not behind else None
        router = Router(self, name, nat, mapping_timeout_s, inside, inside_ipv6)
        if behind:
            behind.plug(router, WAN, Shape(**shape))
        else:
            self.core.attach(router, WAN, block, Shape(**shape))
        router.start()
        return router

    def carrier(self, name: str, nat: NatKind | str = NatKind.REMAPPING, **shape: Any) -> Router:
        """A carrier-grade NAT on the core; homes stand `behind` it."""
        inside = self._private("100.64.{}.0/24")
        router = Router(self, name, NatKind(nat), MAPPING_TIMEOUT_S, inside, None)
        self.core.attach(router, WAN, next(self._blocks), Shape(**shape))
        router.start()
        return router

    def lan(self, name: str, hosts: int = 0, **shape: Any) -> Lan:
        """Hosts on one switch, named NAME1 and on; `shape` is each one's own link's."""
        inside = self._private("10.77.{}.0/24")
        lan = Lan(self, name, inside, IPv6Network("fd77::/64") if self.ipv6 else None)
        for number in range(1, hosts + 1):
            lan.host(f"{name}{number}", **shape)
        return lan

    def partition(self, one: Node, other: Node) -> None:
        """See faults.partition; `reunite` ends it."""
        faults.partition(self, one, other)

    def reunite(self) -> None:
        """End every partition."""
        self.core.reunite()

    def outside_packets(self) -> list[OutsidePacket]:
        """What was addressed to nobody in the laboratory since the last call."""
        return self.void.packets()

    def outside_ip(self, node: Node) -> str:
        """The address under which the core knows it."""
        while isinstance(router := node.plugged_into, Router) and not router.nat.is_routed:
            node = router
        return node.ip

    def close(self) -> None:
        """End the programs, remove the namespaces; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        atexit.unregister(self.close)
        _end(self.processes)
        self._wires.close()
        if hasattr(self, "void"):
            self.void.close()
        remove_all(self._prefix)
        self._guard.communicate()

    # What follows is for the other files of the laboratory.

    def new_namespace(self, name: str) -> Namespace:
        namespace = Namespace.create(self._prefix + name)
        namespace.set_kernel(ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0)
        setting, value = ("accept_dad", 0) if self.ipv6 else ("disable_ipv6", 1)
        for which in ("all", "default"):
            namespace.set_kernel(**{f"ipv6__conf__{which}__{setting}": value})
        return namespace

    def new_mac(self) -> str:
        self._macs += 1
        return f"02:00:00:00:{self._macs >> 8:02x}:{self._macs & 255:02x}"

    def connect(
        self, near: Namespace, interface: str, far: Namespace, far_interface: str, shape: Shape
    ) -> Link:
        ends = End(near, interface, self.new_mac()), End(far, far_interface, self.new_mac())
        return Link(self._wires, *ends, shape)

    def _private(self, pattern: str) -> IPv4Network:
        self._insides += 1
        return IPv4Network(pattern.format(self._insides))


def _end(processes: "list[subprocess.Popen[Any]]") -> None:
    """With their process groups: first asked, then killed."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, how)
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()
