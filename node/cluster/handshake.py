"""`/piecework/cluster/1`: two machines prove to each other that they are of one cluster.

    opener   ── Hello(version, nonce, joined_at_ms) ──►  acceptor
             ◄── Hello(version, nonce, joined_at_ms) ──
             ── Proof(mac) ──►                           refused here: reset, and nothing else
             ◄── Proof(mac) ──

    mac = HMAC-SHA256(secret, role ‖ opener ‖ acceptor ‖ both Hellos)

The connection is mutual TLS, so both PeerIds are known to be the other end's, and a proof holds for
these two and these two nonces alone: it cannot be passed on, replayed or reflected. The opener
proves first; who cannot is told nothing but that.

The secret: without a cluster key it is a hash of the name, and whoever knows the name is admitted.
That is for a home LAN and keeps neighbours' clusters apart; it is no protection. With a key it is
scrypt (RFC 7914, 128 MiB, a few tenths of a second) of the key, salted with the name, computed once
at the start. A stranger whom we dial sees one mac of ours and could try keys against it at home; at
that price for each guess a key of four random words stands, and a key of six letters does not. A
stranger who dials us sees nothing to guess with, and each guess costs him REFUSAL_DELAY_S.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from node.cluster.errors import ClusterRefused
from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from transport.base import Stream
from transport.errors import StreamReset

__all__ = [
    "PROTOCOL",
    "REFUSED",
    "ClusterSecret",
    "accept_proof",
    "derive_secret",
    "offer_proof",
]

PROTOCOL: Final = "/piecework/cluster/1"
VERSION: Final = 1
NONCE_BYTES: Final = 32
HANDSHAKE_TIMEOUT_S: Final = 5.0
"""All four messages; two round trips on a LAN take milliseconds."""
REFUSAL_DELAY_S: Final = 1.0
"""Before a wrong proof is refused: with the bound on handshakes at once it bounds guesses."""
MESSAGE_BYTES_MAX: Final = 1024
REFUSED: Final = 1
"""The reset code for whoever is not of the cluster."""

SCRYPT_N: Final = 2**17
SCRYPT_R: Final = 8
SCRYPT_MEMORY_BYTES: Final = 128 * SCRYPT_N * SCRYPT_R + 2**20

_OPENER: Final = b"piecework/cluster/v1/opener\0"
_ACCEPTOR: Final = b"piecework/cluster/v1/acceptor\0"
_NAME: Final = b"piecework/cluster/v1/name\0"

M = TypeVar("M", "_Hello", "_Proof")


@dataclass(frozen=True, slots=True, repr=False)
class ClusterSecret:
    """What every machine of the cluster derives from its name and key. Never sent or logged."""

    key: bytes

    def mac(self, role: bytes, opener: PeerId, acceptor: PeerId, hellos: bytes) -> bytes:
        peers = opener.public_key + acceptor.public_key
        return hmac.digest(self.key, role + peers + hellos, "sha256")


def derive_secret(name: str, key: str = "") -> ClusterSecret:
    """The secret of a cluster's name and key ('': none). Blocks for a moment where there is one."""
    salt = hashlib.sha256(_NAME + name.encode()).digest()
    if not key:
        return ClusterSecret(salt)
    derived = hashlib.scrypt(
        key.encode(), salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=1, maxmem=SCRYPT_MEMORY_BYTES, dklen=32
    )
    return ClusterSecret(derived)


@dataclass(frozen=True, slots=True)
class _Hello:
    version: int
    nonce: bytes
    joined_at_ms: int

    def __post_init__(self) -> None:
        if len(self.nonce) != NONCE_BYTES:
            raise RemoteProtocolError(f"A nonce has {NONCE_BYTES} bytes.")


@dataclass(frozen=True, slots=True)
class _Proof:
    mac: bytes


async def offer_proof(stream: Stream, secret: ClusterSecret, own: PeerId, joined_at_ms: int) -> int:
    """As the stream's opener: prove, and be proved to. Gives the peer's `joined_at_ms`.

    Raises ClusterRefused, TransportError or RemoteProtocolError; the stream is then reset.
    """
    peer = stream.peer_id

    async def talk() -> int:
        ours = _encode(_new_hello(joined_at_ms))
        await stream.send(ours)
        theirs, hello = await _receive(stream, _Hello)
        _check_version(hello)
        await stream.send(_encode(_Proof(secret.mac(_OPENER, own, peer, ours + theirs))))
        _, proof = await _receive(stream, _Proof)
        if not hmac.compare_digest(proof.mac, secret.mac(_ACCEPTOR, own, peer, ours + theirs)):
            raise _refused(peer)
        return hello.joined_at_ms

    return await _bounded(stream, talk())


async def accept_proof(
    stream: Stream, secret: ClusterSecret, own: PeerId, joined_at_ms: int
) -> int:
    """The same from the other end; a stranger is refused before anything is proved to him."""
    peer = stream.peer_id

    async def talk() -> int:
        theirs, hello = await _receive(stream, _Hello)
        _check_version(hello)
        ours = _encode(_new_hello(joined_at_ms))
        await stream.send(ours)
        _, proof = await _receive(stream, _Proof)
        if not hmac.compare_digest(proof.mac, secret.mac(_OPENER, peer, own, theirs + ours)):
            await asyncio.sleep(REFUSAL_DELAY_S)
            raise _refused(peer)
        await stream.send(_encode(_Proof(secret.mac(_ACCEPTOR, peer, own, theirs + ours))))
        return hello.joined_at_ms

    return await _bounded(stream, talk())


async def _bounded(stream: Stream, talk: Coroutine[Any, Any, int]) -> int:
    """The whole conversation within its time; the stream is reset if it fails."""
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            return await talk
    except TimeoutError:
        stream.reset(REFUSED)
        raise RemoteProtocolError("The machine did not finish its handshake in time.") from None
    except StreamReset as error:
        if error.code != REFUSED:
            raise
        raise _refused(stream.peer_id) from error
    except PieceworkError:
        stream.reset(REFUSED)
        raise


def _new_hello(joined_at_ms: int) -> _Hello:
    return _Hello(VERSION, secrets.token_bytes(NONCE_BYTES), joined_at_ms)


def _check_version(hello: _Hello) -> None:
    if hello.version != VERSION:
        raise ClusterRefused(
            f"The machine speaks version {hello.version} of the cluster protocol, not {VERSION}.",
            hint="Run the same version of piecework on both.",
        )


def _refused(peer: PeerId) -> ClusterRefused:
    return ClusterRefused(
        f"Machine {peer.short} is not of this cluster: its name or its key differs.",
        hint="Give every machine the same --name and --key.",
    )


def _encode(message: _Hello | _Proof) -> bytes:
    return encode_canonical(encode_fields(message))


async def _receive(stream: Stream, kind: type[M]) -> tuple[bytes, M]:
    data = await stream.receive()
    if data is None:
        raise RemoteProtocolError("The machine ended its handshake early.")
    return data, decode_fields(kind, decode_canonical(data, size_max=MESSAGE_BYTES_MAX))
