"""py-libp2p's own host, as its users have it (trio, TCP + Noise + yamux): one round of the echo.

It cannot run in asyncio's loop, so it is opened anew for each round.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from benchmarks.transport_echo_carriers import ONE_WAY_BYTES, PROTOCOL, Carrier
from transport.control.library import (
    NOISE_PROTOCOL,
    YAMUX_PROTOCOL,
    Noise,
    Yamux,
    ed25519_key_pair,
    x25519_key_pair,
)
from transport.framing import LENGTH_BYTES, encode_length

__all__ = ["NAME", "run"]

NAME = "py-libp2p's host (TCP + Noise + yamux)"

T = TypeVar("T")


def run(measure: Callable[[Carrier], Awaitable[T]]) -> T:
    """What `measure` says of a new pair of hosts; before, the loop of the others must rest."""
    return trio.run(_run, measure)


async def _run(measure: Callable[[Carrier], Awaitable[T]]) -> T:
    from libp2p.custom_types import TProtocol
    from libp2p.peer.peerinfo import PeerInfo
    from multiaddr import Multiaddr

    here, there = _host(), _host()
    any_port = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
    async with here.run(listen_addrs=any_port), there.run(listen_addrs=any_port):
        there.set_stream_handler(TProtocol(PROTOCOL), _echo)
        await here.connect(PeerInfo(there.get_id(), there.get_addrs()))
        stream = await here.new_stream(there.get_id(), [TProtocol(PROTOCOL)])

        async def send(frame: bytes) -> None:
            await stream.write(encode_length(len(frame)) + frame)

        carrier = Carrier(NAME, 8, send, lambda: _frame(stream))
        result = await measure(carrier)
        await stream.reset()
    return result


def _host() -> Any:
    from libp2p import new_host
    from libp2p.custom_types import TProtocol
    from libp2p.network.config import ConnectionConfig

    # It looks for two hundred peers at once, and says so; nobody else is here.
    logging.getLogger("libp2p.network.auto_connector").setLevel(logging.ERROR)
    key = ed25519_key_pair()
    noise = Noise(libp2p_keypair=key, noise_privkey=x25519_key_pair().private_key)
    return new_host(
        key_pair=key,
        sec_opt={TProtocol(NOISE_PROTOCOL): noise},
        muxer_opt={TProtocol(YAMUX_PROTOCOL): Yamux},
        connection_config=ConnectionConfig(min_connections=0, low_watermark=0),
    )


async def _echo(stream: Any) -> None:
    try:
        while True:
            frame = await _frame(stream)
            if len(frame) < ONE_WAY_BYTES:
                await stream.write(encode_length(len(frame)) + frame)
    except Exception:  # whatever the library says when the other end is gone
        return


async def _frame(stream: Any) -> bytes:
    size = int.from_bytes(await _exactly(stream, LENGTH_BYTES), "big")
    return await _exactly(stream, size)


async def _exactly(stream: Any, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = await stream.read(size - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)
