"""One end of a flow for transport_wan: runs inside a network namespace, talks by lines on stdout.

A receiver prints the port it listens on, then every tenth of a second the clock and what has come;
the clock is the machine's, so lines of all processes can be put side by side.
"""

import asyncio
import contextlib
import json
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic, process_time

import uvloop

from protocol.identity import KeyPair
from transport.base import Stream
from transport.errors import TransportError
from transport.quic.host import QuicHost
from transport.quic.settings import QuicSettings

__all__ = ["main"]

PROTOCOL = "/benchmark/wan/1"
FRAME = bytes(16 * 1024)
REPORT_S = 0.1
PROBE_S = 0.02


def say(*values: object) -> None:
    print(*values, flush=True)


async def receive_quic(ip: str) -> None:
    host = await QuicHost.start(KeyPair.generate(), listen_host=ip)
    total = 0

    async def serve(stream: Stream) -> None:
        nonlocal total
        with contextlib.suppress(TransportError):
            while (frame := await stream.receive()) is not None:
                total += len(frame)

    host.set_handler(PROTOCOL, serve)
    say(host.addresses[0].port)
    while True:
        await asyncio.sleep(REPORT_S)
        say(monotonic(), total)


async def send_quic(control: str, ip: str, port: str, seconds: str) -> None:
    settings = replace(QuicSettings(), congestion_control=control)
    host = await QuicHost.start(KeyPair.generate(), settings=settings)
    connection = await host.connect_at(ip, int(port), timeout_s=5)
    stream = await connection.open_stream(PROTOCOL)
    say(monotonic())
    cpu = process_time()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(float(seconds)):
            while True:
                await stream.send(FRAME)
    say(monotonic(), process_time() - cpu)
    await connection.close()


async def receive_tcp(ip: str) -> None:
    total = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal total
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                total += len(data)
        writer.close()

    server = await asyncio.start_server(serve, ip, 0)
    say(server.sockets[0].getsockname()[1])
    while True:
        await asyncio.sleep(REPORT_S)
        say(monotonic(), total)


def send_tcp(control: str, ip: str, port: str, seconds: str) -> None:
    with socket.socket() as sender:
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
        sender.connect((ip, int(port)))
        began = monotonic()
        say(began)
        cpu = process_time()
        while monotonic() < began + float(seconds):
            sender.send(FRAME)
        say(monotonic(), process_time() - cpu)
        # What the kernel still holds is not part of it.
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answer_probes(ip: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering:
        answering.bind((ip, 0))
        say(answering.getsockname()[1])
        while True:
            data, source = answering.recvfrom(64)
            answering.sendto(data, source)


async def probe(ip: str, port: str, seconds: str) -> None:
    """Prints one line of JSON at the end: [when sent, round trip] of every answered probe."""
    found: list[tuple[float, float]] = []

    class Answers(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, _: object) -> None:
            (sent_at,) = struct.unpack("d", data)
            found.append((sent_at, monotonic() - sent_at))

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Answers, remote_addr=(ip, int(port)))
    end = monotonic() + float(seconds)
    while monotonic() < end:
        transport.sendto(struct.pack("d", monotonic()))
        await asyncio.sleep(PROBE_S)
    say(json.dumps(found))


def main(role: str, arguments: Sequence[str]) -> None:
    match role:
        case "receive-quic":
            uvloop.run(receive_quic(*arguments))
        case "send-quic":
            uvloop.run(send_quic(*arguments))
        case "receive-tcp":
            uvloop.run(receive_tcp(*arguments))
        case "send-tcp":
            send_tcp(*arguments)
        case "answer-probes":
            answer_probes(*arguments)
        case "probe":
            uvloop.run(probe(*arguments))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
