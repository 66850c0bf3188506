"""How a node signs its HTTP requests to the marketplace: what bytes, and which headers.

    Piecework-Peer: 12D3KooW…      Piecework-Timestamp: unix seconds
    Piecework-Nonce: 32 hex        Piecework-Signature: 128 hex, Ed25519 over `request_bytes`

The nonce makes each request one of a kind, so a recorded one cannot be played again.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from protocol.errors import RecordExpired, RemoteProtocolError
from protocol.identity import KeyPair, PeerId, verify

__all__ = [
    "NONCE_HEADER",
    "PEER_HEADER",
    "REQUEST_AGE_MAX_S",
    "SIGNATURE_HEADER",
    "TIMESTAMP_HEADER",
    "SignedRequest",
    "sign_request",
    "verify_request",
]

PEER_HEADER = "piecework-peer"
TIMESTAMP_HEADER = "piecework-timestamp"
NONCE_HEADER = "piecework-nonce"
SIGNATURE_HEADER = "piecework-signature"
REQUEST_AGE_MAX_S = 60
"""How long the receiver must remember nonces: clocks of home machines are rarely further off."""
_DOMAIN = b"piecework/request/v1"


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A verified request's author and nonce; the receiver must refuse a nonce it has seen."""

    peer_id: PeerId
    nonce: str
    timestamp_s: int


def sign_request(
    key: KeyPair, method: str, target: str, body: bytes, *, now_s: float
) -> dict[str, str]:
    """The four headers for one request. `target` is the path with its query, as sent."""
    timestamp, nonce = str(int(now_s)), secrets.token_hex(16)
    message = _request_bytes(method, target, timestamp, nonce, body)
    return {
        PEER_HEADER: str(key.peer_id),
        TIMESTAMP_HEADER: timestamp,
        NONCE_HEADER: nonce,
        SIGNATURE_HEADER: key.sign(message).hex(),
    }


def verify_request(
    headers: Mapping[str, str], method: str, target: str, body: bytes, *, now_s: float
) -> SignedRequest:
    """Check signature and age. Raises RemoteProtocolError, SignatureInvalid or RecordExpired."""
    try:
        peer, timestamp, nonce, signature = (
            headers[name]
            for name in (PEER_HEADER, TIMESTAMP_HEADER, NONCE_HEADER, SIGNATURE_HEADER)
        )
        raw_signature = bytes.fromhex(signature)
    except (KeyError, ValueError):
        raise RemoteProtocolError(
            "The request is not signed by a node.", hint="Send the four piecework-* headers."
        ) from None
    if not (timestamp.isdecimal() and len(timestamp) <= 12 and len(nonce) == 32):
        raise RemoteProtocolError("The request's timestamp or nonce is malformed.")
    peer_id = PeerId.from_text(peer)
    verify(
        peer_id.public_key, _request_bytes(method, target, timestamp, nonce, body), raw_signature
    )
    if abs(now_s - int(timestamp)) > REQUEST_AGE_MAX_S:
        raise RecordExpired(
            f"The request is {now_s - int(timestamp):.0f} s old.",
            hint="Check this machine's clock.",
        )
    return SignedRequest(peer_id, nonce, int(timestamp))


def _request_bytes(method: str, target: str, timestamp: str, nonce: str, body: bytes) -> bytes:
    parts = (method.upper(), target, timestamp, nonce, hashlib.sha256(body).hexdigest())
    return b"\0".join((_DOMAIN, *(part.encode() for part in parts)))
