"""The machines of a laboratory: what hosts, routers and switches have in common, and hosts."""

import socket
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from tests.netlab.link import Link
from tests.netlab.namespace import LabError

if TYPE_CHECKING:
    from tests.netlab.lab import Lab
    from tests.netlab.switch import Switch

__all__ = ["Host", "Node"]

RUN_TIMEOUT_S: Final = 60.0  # of a program run inside a node; tests end before


class Node:
    """A namespace with a way to the rest, `link`, once it is attached."""

    def __init__(self, lab: "Lab", name: str) -> None:
        self.lab, self.name = lab, name
        self.namespace = lab.new_namespace(name)
        self.addresses: list[str] = []
        self.ipv6: str | None = None
        self.plugged_into: Switch | None = None
        self._link: Link | None = None

    @property
    def ip(self) -> str:
        """Its first IPv4 address; of a router, the one on the outside."""
        return self.addresses[0]

    @property
    def link(self) -> Link:
        """Its way to the rest: `link.shape(loss=0.02, up="5mbit")`."""
        if self._link is None:
            raise LabError(f"{self.name} is not attached.")
        return self._link

    def attach(self, link: Link, addresses: list[str], ipv6: str | None = None) -> None:
        self._link, self.addresses, self.ipv6 = link, addresses, ipv6

    def enter(self) -> AbstractContextManager[None]:
        """See Namespace.enter: sockets, threads and processes made in the block stay inside."""
        return self.namespace.enter()

    def socket(self, *arguments: Any, **named: Any) -> socket.socket:
        """A socket of this process that lives in the node."""
        with self.enter():
            return socket.socket(*arguments, **named)

    def popen(self, arguments: Sequence[object], **named: Any) -> "subprocess.Popen[Any]":
        """A program in the node, in a process group of its own; the laboratory ends it."""
        named.setdefault("start_new_session", True)
        with self.enter():
            process = subprocess.Popen(list(map(str, arguments)), **named)
        self.lab.processes.append(process)
        return process

    def run(self, arguments: Sequence[object], **named: Any) -> "subprocess.CompletedProcess[str]":
        """A program in the node, to its end; its output is text."""
        named = {"capture_output": True, "text": True, "timeout": RUN_TIMEOUT_S, **named}
        with self.enter():
            return subprocess.run(list(map(str, arguments)), check=False, **named)

    def cut(self) -> None:
        """Nothing passes its link, and nobody is told."""
        self.link.cut()

    def heal(self) -> None:
        self.link.heal()


class Host(Node):
    """Runs programs."""
