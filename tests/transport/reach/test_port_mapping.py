import asyncio
import struct

import pytest

from transport.errors import TimedOut
from transport.reach.gateway import from_proc, from_route
from transport.reach.nat_pmp import GatewayRefused, Mapped, map_udp_port
from transport.reach.port_mapping import PortMapper

LINUX_ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
"""


class Router(asyncio.DatagramProtocol):
    """A NAT-PMP router as RFC 6886 has it; `result` other than 0 refuses."""

    def __init__(self, outside="198.51.100.7", result=0, deaf_for=0):
        self.outside, self.result, self.deaf_for = outside, result, deaf_for
        self.mapped = {}

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        if self.deaf_for:
            self.deaf_for -= 1
            return
        head = struct.pack(">BBHI", 0, data[1] + 128, self.result, 1)
        if data[1] == 0:
            packed = bytes(map(int, self.outside.split(".")))
            self.transport.sendto(head + packed, addr)
            return
        _, inside, wanted, lifetime = struct.unpack(">HHHI", data[2:12])
        self.mapped[inside] = lifetime
        self.transport.sendto(head + struct.pack(">HHI", inside, wanted + 1, lifetime), addr)


@pytest.fixture
async def start():
    transports = []

    async def start(**how):
        transport, router = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Router(**how), local_addr=("127.0.0.1", 0)
        )
        transports.append(transport)
        return router, transport.get_extra_info("sockname")[1]

    yield start
    for transport in transports:
        transport.close()


async def test_a_router_opens_a_port_and_says_which(start):
    _, port = await start()
    assert await map_udp_port("127.0.0.1", 4001, 600, port) == Mapped("198.51.100.7", 4002, 600)


async def test_a_lost_request_is_sent_again(start):
    _, port = await start(deaf_for=1)
    assert (await map_udp_port("127.0.0.1", 4001, 600, port)).port == 4002


async def test_a_router_that_says_no_gives_its_reason(start):
    _, port = await start(result=2)
    with pytest.raises(GatewayRefused, match="switched off"):
        await map_udp_port("127.0.0.1", 4001, 600, port)


async def test_a_router_that_does_not_speak_it_is_left_soon(start):
    _, port = await start(deaf_for=100)
    with pytest.raises(TimedOut):
        await map_udp_port("127.0.0.1", 4001, 600, port)


async def test_the_mapper_tries_ways_in_order_and_closes_what_it_opened(start):
    router, port = await start()
    changed = asyncio.Event()

    async def refuses(inside, lifetime_s):
        raise GatewayRefused("No.")

    async def opens(inside, lifetime_s):
        mapped = await map_udp_port("127.0.0.1", inside, lifetime_s, port)
        return Mapped("9.9.9.9", mapped.port, lifetime_s)

    mapper = PortMapper(4001, changed.set, {"first": refuses, "second": opens})
    mapper.start()
    await asyncio.wait_for(changed.wait(), 5)
    assert (mapper.mapping.port, mapper.mapping.protocol) == (4002, "second")
    await mapper.close()
    assert router.mapped == {4001: 0}


async def test_a_port_behind_a_second_nat_is_no_candidate():
    asked = asyncio.Event()

    async def opens(inside, lifetime_s):
        asked.set()
        return Mapped("100.64.0.9", 4001, lifetime_s)

    mapper = PortMapper(4001, lambda: None, {"it": opens})
    mapper.start()
    await asked.wait()
    await asyncio.sleep(0)
    assert mapper.mapping is None
    assert "another NAT" in mapper.reason
    await mapper.close()


def test_the_default_router_is_the_one_with_the_least_metric():
    assert from_proc(LINUX_ROUTES) == "192.168.1.1"
    assert from_proc("Iface\n") is None
    assert from_route("   route to: default\n    gateway: 192.168.1.1\n") == "192.168.1.1"
