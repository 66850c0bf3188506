"""Whose clock is believed, and how much of a difference matters."""

import asyncio
import time
from email.utils import formatdate

import pytest

from node.app.clock_check import ClockReading, clock_finding, read_market_clock, relay_clocks
from protocol.identity import KeyPair
from transport.address import TcpAddress
from transport.diagnosis.finding import Level
from transport.diagnosis.network_findings import RelayReport

RELAY = TcpAddress("9.9.9.1", 4001, KeyPair.generate().peer_id)


@pytest.mark.parametrize(
    ("ahead_s", "is_sure", "level"),
    [
        (0.4, True, Level.OK),
        (-0.4, False, Level.OK),
        (30, True, Level.WARN),
        (-300, True, Level.FAIL),
        (-300, False, Level.WARN),
    ],
)
def test_difference_matters_by_its_size_and_source(ahead_s, is_sure, level):
    finding = clock_finding([ClockReading("the relay", ahead_s, is_sure)], None)
    assert finding.level is level
    assert ("behind" in finding.text) == (ahead_s < -1)


def test_marketplace_is_believed_before_relays():
    readings = [ClockReading("a relay", 0.1, False), ClockReading("the marketplace", 90, True)]
    assert clock_finding(readings, True).level is Level.FAIL


def test_without_anybody_the_system_is_asked():
    assert clock_finding([], True).level is Level.OK
    assert clock_finding([], False).level is Level.WARN
    assert clock_finding([], None).level is Level.WARN


def test_slot_of_a_relay_tells_its_time():
    reached = RelayReport(RELAY, expires_at_s=10_000 + 3600, answered_at_s=10_007.0)
    (reading,) = relay_clocks([reached, RelayReport(RELAY, reason="refused")])
    assert reading.ahead_s == 7.0
    assert not reading.is_sure


async def test_date_of_a_marketplace_is_read():
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        date = formatdate(time.time() - 120, usegmt=True)
        writer.write(f"HTTP/1.1 404 No\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reading = await read_market_clock(f"http://127.0.0.1:{port}")
    server.close()
    await server.wait_closed()
    assert 118 < reading.ahead_s < 122
    assert await read_market_clock(f"http://127.0.0.1:{port}") is None
    assert await read_market_clock("not a url") is None
