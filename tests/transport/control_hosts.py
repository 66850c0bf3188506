"""Real control hosts on loopback, closed at the end whatever happens."""

import asyncio
from contextlib import asynccontextmanager

from protocol.identity import KeyPair
from transport.control.host import LibP2pHost

LOOPBACK = (("127.0.0.1", 0),)


@asynccontextmanager
async def control_hosts(count, *, listen=LOOPBACK, settings=None):
    hosts = []
    try:
        while len(hosts) < count:
            host = await LibP2pHost.start(KeyPair.generate(), listen=listen, settings=settings)
            hosts.append(host)
        yield hosts
    finally:
        await asyncio.gather(*(host.close() for host in hosts))


async def echo(stream):
    while data := await stream.read(65536):
        await stream.write(data)


async def read_exactly(stream, size):
    data = b""
    while len(data) < size:
        more = await stream.read(size - len(data))
        assert more, f"the stream ended after {len(data)} of {size} bytes"
        data += more
    return data


async def read_all(stream):
    data = b""
    while more := await stream.read(65536):
        data += more
    return data


async def until(condition, *, timeout_s=5.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
