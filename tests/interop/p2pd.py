"""go-libp2p's daemon, as an independent peer: found, started, and spoken to on its socket.

The binary comes in the wheel `hivemind`, which `make interop` unpacks (nothing of its Python is
used), or its path in the variable PIECEWORK_P2PD. Without it the tests are skipped. The
control protocol is hivemind/proto/p2pd.proto: varint-prefixed protobuf on a Unix socket, where an
answered STREAM_OPEN turns the connection into the stream.
"""

import asyncio
import contextlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from protocol.identity import KeyPair, PeerId

START_TIMEOUT_S = 15
CALL_TIMEOUT_S = 15
PING = "/ipfs/ping/1.0.0"

IDENTIFY, CONNECT, STREAM_OPEN, STREAM_HANDLER, LIST_PEERS, DISCONNECT = 0, 1, 2, 3, 5, 7


class DaemonError(Exception):
    """What the daemon answered instead of OK."""


def find_p2pd():
    """The binary's path; skips the calling test where there is none."""
    if path := os.environ.get("PIECEWORK_P2PD"):
        return Path(path)
    unpacked = Path(sys.prefix) / "interop" / "hivemind" / "hivemind_cli" / "p2pd"
    if unpacked.exists():
        return unpacked
    pytest.skip("go-libp2p's daemon is not here: run 'make interop', or set PIECEWORK_P2PD")


@contextlib.asynccontextmanager
async def go_peer(*, listen=("/ip4/127.0.0.1/tcp/0",), key=None, arguments=()):
    """A running daemon that listens on `listen` and has `key`; killed at the end."""
    binary = find_p2pd()
    key = key or KeyPair.generate()
    with tempfile.TemporaryDirectory(prefix="p2pd-") as name:
        folder = Path(name)
        if not os.access(binary, os.X_OK):  # wheels do not keep the bit
            binary = Path(shutil.copy(binary, folder / "p2pd"))
            binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
        identity = folder / "key"
        public = key.peer_id.public_key
        identity.write_bytes(bytes((0x08, 0x01, 0x12, 0x40)) + key.seed + public)
        process = await asyncio.create_subprocess_exec(
            *(str(binary), f"-listen=/unix{folder}/control", f"-id={identity}", "-q"),
            *(f"-hostAddrs={','.join(listen)}" if listen else "-noListenAddrs", *arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        peer = GoPeer(folder, process)
        try:
            await peer._wait_started()
            assert peer.peer_id == key.peer_id
            yield peer
        finally:
            await peer.close()


class GoPeer:
    """Addresses are multiaddrs in text, without `/p2p/…`."""

    def __init__(self, folder, process):
        self.peer_id = None
        self.addresses = ()
        self._folder = folder
        self._process = process
        self._servers = []

    async def refresh(self):
        """Ask for its PeerId and addresses (which grow when it reserves at a relay)."""
        identity = _first(await self._call(_field(1, IDENTIFY)), 4)
        fields = _fields(identity)
        self.peer_id = PeerId.from_multihash(fields[1][0])
        self.addresses = tuple(_text(address) for address in fields.get(2, ()))

    async def connect(self, peer_id, *addresses):
        """Raises DaemonError. The daemon chooses among the addresses, and may know better ones."""
        body = _field(1, peer_id.multihash)
        body += b"".join(_field(2, _binary(address)) for address in addresses)
        await self._call(_field(1, CONNECT) + _field(2, body + _field(3, CALL_TIMEOUT_S)))

    async def disconnect(self, peer_id):
        await self._call(_field(1, DISCONNECT) + _field(7, _field(1, peer_id.multihash)))

    async def peers(self):
        """The PeerIds it is connected to, and from where."""
        answer = _fields(await self._call(_field(1, LIST_PEERS)))
        found = {}
        for info in map(_fields, answer.get(6, ())):
            found[PeerId.from_multihash(info[1][0])] = [_text(a) for a in info.get(2, ())]
        return found

    async def open_stream(self, peer_id, *protocols):
        """(reader, writer) of a new stream. Raises DaemonError."""
        body = _field(1, peer_id.multihash)
        body += b"".join(_field(2, protocol.encode()) for protocol in protocols)
        request = _field(1, STREAM_OPEN) + _field(3, body + _field(3, CALL_TIMEOUT_S))
        reader, writer = await asyncio.open_unix_connection(self._folder / "control")
        try:
            _check(await self._exchange(reader, writer, request))
        except BaseException:
            writer.close()
            raise
        return reader, writer

    async def serve(self, protocol, handler):
        """Call `handler(peer_id, reader, writer)` for each stream with that protocol."""
        path = self._folder / f"handler-{len(self._servers)}"

        async def answer(reader, writer):
            info = _fields(await _read_prefixed(reader))
            await handler(PeerId.from_multihash(info[1][0]), reader, writer)
            writer.close()

        self._servers.append(await asyncio.start_unix_server(answer, path))
        # As a multiaddr: code 400, and the path with its first slash, which Python's library drops.
        address = _varint(400) + _varint(len(str(path))) + str(path).encode()
        body = _field(1, address) + _field(2, protocol.encode()) + _field(3, 0)
        await self._call(_field(1, STREAM_HANDLER) + _field(4, body))

    async def ping(self, peer_id, count=1):
        """Round trips of 32 bytes on one stream of libp2p's ping protocol."""
        reader, writer = await self.open_stream(peer_id, PING)
        for _ in range(count):
            payload = os.urandom(32)
            writer.write(payload)
            assert await asyncio.wait_for(reader.readexactly(32), CALL_TIMEOUT_S) == payload
        writer.close()

    async def close(self):
        for server in self._servers:
            server.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _wait_started(self):
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                assert self._process.returncode is None, "p2pd ended at once"
                with contextlib.suppress(FileNotFoundError, ConnectionError):
                    return await self.refresh()
                await asyncio.sleep(0.05)

    async def _call(self, request):
        reader, writer = await asyncio.open_unix_connection(self._folder / "control")
        try:
            return _check(await self._exchange(reader, writer, request))
        finally:
            writer.close()

    async def _exchange(self, reader, writer, request):
        writer.write(_varint(len(request)) + request)
        return await asyncio.wait_for(_read_prefixed(reader), CALL_TIMEOUT_S + 5)


def _check(answer):
    fields = _fields(answer)
    if fields[1][0] != 0:
        raise DaemonError(_first(_first(answer, 2), 1).decode())
    return answer


# --- protobuf, as much as the daemon needs


def _varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _fields(data):
    """{field number: values}, of varints and byte strings."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(data):
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            at += value
            value = data[at - value : at]
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _first(data, number):
    return _fields(data)[number][0]


async def _read_prefixed(reader):
    size = shift = 0
    while True:
        (byte,) = await reader.readexactly(1)
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return await reader.readexactly(size)


def _binary(address):
    from multiaddr import Multiaddr

    return Multiaddr(address).to_bytes()


def _text(address):
    from multiaddr import Multiaddr

    return str(Multiaddr(address))
