"""One node's network side as a program, for hosts of the laboratory: obeys JSON lines on stdin.

    python -m tests.netlab.peer --seed N [--relay MULTIADDR ...]

{"do": "where"}                                 its addresses, mapping and relays
{"do": "reach", "peer": …, "addresses": […]}    connect, a byte there and back, wait for direct
{"do": "transfer", "peer": …, "bytes": n}       n bytes there and back on one stream, compared
{"do": "part", "peer": …}                       close the connections to that peer
"""

import argparse
import asyncio
import hashlib
import json
import logging
import os
import sys
from time import monotonic
from typing import Any

from protocol.errors import PieceworkError
from protocol.identity import KeyPair, PeerId
from transport.address import TcpAddress, known_addresses
from transport.base import PathKind, Stream
from transport.home_host import HomeHost

ECHO = "/piecework/test-echo/1"
CONNECT_TIMEOUT_S = 12.0
POLL_S = 0.005


async def echo(stream: Stream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


class Peer:
    def __init__(self, host: HomeHost) -> None:
        self.host = host
        host.set_handler(ECHO, echo)

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        do = getattr(self, order.pop("do"))
        try:
            return await do(**order)
        except PieceworkError as error:
            return {"error": str(error)}

    async def where(self) -> dict[str, Any]:
        return {
            "peer": str(self.host.peer_id),
            "addresses": [str(a) for a in self.host.addresses],
            "relays": [str(s.state) for s in self.host.relay_statuses],
        }

    async def reach(self, peer: str, addresses: list[str], watch_s: float = 6.0) -> dict[str, Any]:
        began = monotonic()
        peer_id = PeerId.from_text(peer)
        connection = await self.host.connect(
            peer_id, known_addresses(addresses), timeout_s=CONNECT_TIMEOUT_S
        )
        stream = await connection.open_stream(ECHO)
        await stream.send(b"x")
        first_kind = connection.path_kind
        assert await stream.receive() == b"x"
        result: dict[str, Any] = {
            "first_byte_ms": _ms(began), "first_kind": first_kind, "direct_ms": None,
        }  # fmt: skip
        while monotonic() - began < watch_s:
            if connection.path_kind is not PathKind.RELAYED:
                result["direct_ms"] = _ms(began)
                break
            await asyncio.sleep(POLL_S)
        await stream.send(b"y")
        assert await stream.receive() == b"y"
        stream.finish()
        return {**result, "kind": connection.path_kind, "remote": connection.remote}

    async def transfer(self, peer: str, bytes: int, frame: int = 16_384) -> dict[str, Any]:  # noqa: A002
        connection = await self.host.connect(PeerId.from_text(peer), (), timeout_s=1)
        stream = await connection.open_stream(ECHO)
        began, kinds = monotonic(), [str(connection.path_kind)]
        sent, received = hashlib.sha256(), hashlib.sha256()
        longest_s, count = 0.0, bytes // frame

        async def send() -> None:
            for _ in range(count):
                data = os.urandom(frame)
                sent.update(data)
                await stream.send(data)

        sending = asyncio.create_task(send())
        for _ in range(count):
            waited = monotonic()
            data = await stream.receive()
            assert data is not None
            received.update(data)
            longest_s = max(longest_s, monotonic() - waited)
            if kinds[-1] != connection.path_kind:
                kinds.append(str(connection.path_kind))
        await sending
        stream.finish()
        return {
            "same": sent.digest() == received.digest(), "seconds": monotonic() - began,
            "kinds": kinds, "longest_s": longest_s,
        }  # fmt: skip

    async def part(self, peer: str) -> dict[str, Any]:
        for connection in self.host.connections():
            if str(connection.peer_id) == peer:
                await connection.close()
        return {}


def _ms(began: float) -> float:
    return round((monotonic() - began) * 1000, 1)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--relay", action="append", default=[])
    parser.add_argument("--log", default="WARNING")
    parser.add_argument("--listen", default="0.0.0.0")
    options = parser.parse_args()
    logging.basicConfig(level=options.log, format="%(relativeCreated)d %(name)s %(message)s")
    host = await HomeHost.start(
        KeyPair(options.seed.to_bytes(32, "big")),
        listen_host=options.listen,
        relays=[TcpAddress.from_text(text) for text in options.relay],
    )
    await host.wait_settled(6.0)
    peer = Peer(host)
    print(json.dumps(await peer.where()), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await peer.obey(json.loads(line))), flush=True)
    await host.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
