"""The network between the harness's hosts: a UDP proxy before every provider, in one process.

Each provider announces its proxy's port alone, which stays when the provider is started again. The
proxy gives every dialler a port of its own towards the provider, as a NAT would, so a connection of
two hosts passes just one proxy and never finds a way around it. Here links are cut, and here NATs
forget.
"""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.kills.channel import Message, connect
from benchmarks.kills.shards import Shards

__all__ = ["Wires", "run"]

LOOPBACK: Final = "127.0.0.1"
DATAGRAM_BYTES_MAX: Final = 65_535
BATCH_MAX: Final = 64
"""Datagrams taken from one socket before the next has its turn."""
BUFFER_BYTES: Final = 4 * 2**20


class _Flow:
    """One dialler's way to one provider: a socket whose port the provider sees."""

    def __init__(self, front: "_Front", client: tuple[str, int]) -> None:
        self.front = front
        self.client = client
        self.socket = _udp()
        if front.back is not None:
            self.socket.connect(front.back)


class _Front:
    """What a provider announces."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.socket = _udp()
        self.back: tuple[str, int] | None = None
        self.flows: dict[tuple[str, int], _Flow] = {}


class Wires:
    """Owns every socket; lives in one event loop. `delay_s`: of each datagram, each way."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._fronts: dict[str, _Front] = {}
        self._node_of: dict[int, str] = {}
        """Whose data socket has that port."""
        self._cut_links: set[frozenset[str]] = set()
        self._islands: set[str] = set()
        self.dropped = 0

    def add(self, node: str) -> int:
        """A front for a provider; the port to announce."""
        front = self._fronts[node] = _Front(node)
        self._loop.add_reader(front.socket.fileno(), self._from_clients, front)
        port: int = front.socket.getsockname()[1]
        return port

    def moved(self, node: str, port: int) -> None:
        """A host (again) listens at that port: what led to its last one is forgotten."""
        for old in [p for p, n in self._node_of.items() if n == node]:
            del self._node_of[old]
            for front in self._fronts.values():
                if (flow := front.flows.pop((LOOPBACK, old), None)) is not None:
                    self._close(flow)
        self._node_of[port] = node
        if (own := self._fronts.get(node)) is not None:
            own.back = (LOOPBACK, port)
            self._renew(own, list(own.flows))

    def cut(self, first: str, second: str | None, *, heals: bool) -> None:
        """One link, or with None all of a node's."""
        if second is None:
            (self._islands.discard if heals else self._islands.add)(first)
        else:
            link = frozenset((first, second))
            (self._cut_links.discard if heals else self._cut_links.add)(link)

    def rebind(self, node: str) -> None:
        """Every NAT that the node's datagrams pass gives them another port; the old one is dead."""
        for front in self._fronts.values():
            touched = [
                client
                for client in front.flows
                if front.node == node or self._node_of.get(client[1]) == node
            ]
            self._renew(front, touched)

    def _renew(self, front: _Front, clients: list[tuple[str, int]]) -> None:
        for client in clients:
            self._close(front.flows.pop(client))
            self._open(front, client)

    def _open(self, front: _Front, client: tuple[str, int]) -> _Flow:
        flow = front.flows[client] = _Flow(front, client)
        self._loop.add_reader(flow.socket.fileno(), self._from_provider, flow)
        return flow

    def _close(self, flow: _Flow) -> None:
        self._loop.remove_reader(flow.socket.fileno())
        flow.socket.close()

    def _carries(self, front: _Front, client: tuple[str, int]) -> bool:
        node = self._node_of.get(client[1], "")
        is_cut = (
            node in self._islands
            or front.node in self._islands
            or frozenset((node, front.node)) in self._cut_links
        )
        self.dropped += is_cut
        return not is_cut

    def _from_clients(self, front: _Front) -> None:
        for _ in range(BATCH_MAX):
            try:
                data, client = front.socket.recvfrom(DATAGRAM_BYTES_MAX)
            except OSError:  # nothing more, or the word of a closed port behind an earlier send
                return
            if front.back is not None and self._carries(front, client):
                flow = front.flows.get(client) or self._open(front, client)
                self._later(_send, flow, data)

    def _from_provider(self, flow: _Flow) -> None:
        for _ in range(BATCH_MAX):
            try:
                data = flow.socket.recv(DATAGRAM_BYTES_MAX)
            except OSError:
                return
            if self._carries(flow.front, flow.client):
                self._later(_send_back, flow, data)

    def _later(self, send: Callable[[_Flow, bytes], None], flow: _Flow, data: bytes) -> None:
        if self._delay_s:
            self._loop.call_later(self._delay_s, send, flow, data)
        else:
            send(flow, data)


def _send(flow: _Flow, data: bytes) -> None:
    try:
        flow.socket.send(data)
    except OSError:  # nobody listens there any more: lost, and the sender is not told
        return


def _send_back(flow: _Flow, data: bytes) -> None:
    try:
        flow.front.socket.sendto(data, flow.client)
    except OSError:
        return


def _udp() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        made.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    made.bind((LOOPBACK, 0))
    return made


async def run(order: Message, control: Path, shards: Shards) -> None:
    """The process: does what it is told until the harness ends."""
    channel = await connect(control)
    wires = Wires(order["delay_s"])
    channel.send({"hello": order["name"], "life": order["life"]})
    async for message in channel.messages():
        answer: Message = {}
        match message["do"]:
            case "add":
                answer = {"port": wires.add(message["node"])}
            case "moved":
                wires.moved(message["node"], message["port"])
            case "cut":
                wires.cut(message["first"], message["second"], heals=message["heals"])
            case "rebind":
                wires.rebind(message["node"])
        channel.send({"answer_to": message["number"]} | answer)
