"""Neighbours find each other by mDNS over a real switch, and forget whoever left."""

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from zeroconf import DNSOutgoing, DNSQuestion, ServiceInfo

from protocol.identity import KeyPair
from tests.netlab.lab import Lab
from tests.netlab.lan import Lan
from tests.netlab.node import Host
from tests.netlab.requirements import needs_lab
from transport.lan.discovery import cluster_tag
from transport.lan.record import SERVICE_TYPE
from transport.lan.sightings import NAMES_MAX

pytestmark = needs_lab

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).parents[1] / ("mdns_node.py")
TTL_S = 1
WAIT_S = 15
IP_RECVTTL = 12  # of Linux; the socket module does not name it


class Neighbour:
    """One `mdns_node.py` in a host of the laboratory, and what it says."""

    def __init__(self, host: Host, cluster: str = "home") -> None:
        self.host = host
        self.said: list[str] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.process = host.popen(
            [sys.executable, PROGRAM, cluster, TTL_S, host.ip, 4001],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(ROOT)},
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.peer_id = self.hears("me ").split()[1]

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)

    def hears(self, beginning: str, timeout_s: float = WAIT_S) -> str:
        """The first line, said already or yet to be said, that begins so."""
        until = time.monotonic() + timeout_s
        while not (found := [line for line in self.said if line.startswith(beginning)]):
            try:
                self.said.append(self._lines.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"'{beginning}' was not said; but: {self.said}")
        return found[0]

    def leave(self) -> None:
        self.process.stdin.close()
        self.process.wait(WAIT_S)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def started() -> Iterator[list[Neighbour]]:
    """Whoever is in this list is ended."""
    neighbours: list[Neighbour] = []
    yield neighbours
    for neighbour in neighbours:
        neighbour.close()


@pytest.fixture
def lan(started: list[Neighbour]) -> Iterator[Lan]:
    with Lab() as lab:
        yield lab.lan("lan", 4)
        assert not lab.outside_packets()


def test_neighbours_find_each_other_and_forget_the_gone_and_the_killed(lan, started):
    for host, cluster in zip(lan.hosts, ("home", "home", "home", "cafe"), strict=True):
        started.append(Neighbour(host, cluster))
    a, b, c, stranger = started
    for one in (a, b, c):
        for other in (a, b, c):
            if one is not other:
                assert one.hears(f"found {other.peer_id}").split()[2:] == [other.host.ip]

    c.leave()
    began = time.monotonic()
    for one in (a, b):
        one.hears(f"lost {c.peer_id}", timeout_s=3)
    assert time.monotonic() - began < 2  # by its goodbye: asking the silent takes longer

    b.process.kill()
    a.hears(f"lost {b.peer_id}")

    a.leave()
    assert not [line for line in a.said if stranger.peer_id in line]
    assert "other_cluster_count=1" in a.hears("statistics")


def test_network_that_comes_later_and_a_flood_of_announcements(lan, started):
    flooder = lan.hosts[2].socket(socket.AF_INET, socket.SOCK_DGRAM)
    lan.hosts[1].namespace.ip("link set eth0 down")
    a, b = (Neighbour(host) for host in lan.hosts[:2])
    started += [a, b]
    with flooder:
        for number in range(600):
            flooder.sendto(announcement(number), ("224.0.0.251", 5353))
            time.sleep(0.0005)
    lan.hosts[1].namespace.ip("link set eth0 up")
    a.hears(f"found {b.peer_id}")
    b.hears(f"found {a.peer_id}")
    a.leave()
    assert len([line for line in a.said if line.startswith("found")]) <= 1 + NAMES_MAX
    assert "malformed_count=0" not in a.hears("statistics")


def test_answer_to_one_address_dies_at_the_first_router(lan, started):
    answering = lan.hosts[0]
    started.append(Neighbour(answering))
    with lan.hosts[1].socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        asking.settimeout(0.2)
        question = DNSOutgoing(0)
        question.add_question(DNSQuestion(SERVICE_TYPE, 12, 1))
        for _ in range(50):
            asking.sendto(question.packets()[0], (answering.ip, 5353))
            with contextlib.suppress(TimeoutError):
                data, ancillary, *_ = asking.recvmsg(9000, 100)
                break
    assert started[0].peer_id.encode() in data
    assert [int.from_bytes(value, sys.byteorder) for _, _, value in ancillary] == [1]


def announcement(number: int) -> bytes:
    """A well-formed packet of lies: every third says it is a node, the others are garbage."""
    peer_id = KeyPair.generate().peer_id
    properties = {"v": "1", "id": str(peer_id), "c": cluster_tag("home")}
    info = ServiceInfo(
        SERVICE_TYPE,
        f"liar{number}.{SERVICE_TYPE}",
        port=4001,
        addresses=[bytes((10, 66, number >> 8, number & 255))],
        properties=properties if number % 3 == 0 else {"id": "x" * (number % 200)},
        server=f"liar{number}.local.",
    )
    out = DNSOutgoing(0x8400)
    for record in (info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses()):
        out.add_answer_at_time(record, 0)
    return out.packets()[0]
