"""Checkpoints: the log's size and root as a signed note, the form every auditor and witness reads.

    piecework/<network>          origin
    1234                         size
    <base64 of the root>
                                 (an empty line ends the text)
    — piecework/<network> <base64 of key id ‖ Ed25519 signature over the text>

C2SP tlog-checkpoint and signed-note. The key id is the first four bytes of
SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key). Signatures by unknown keys (witnesses) are ignored.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from ledger.errors import AuditFailed
from ledger.tree import HASH_BYTES
from protocol.errors import SignatureInvalid
from protocol.identity import SIGNATURE_BYTES, KeyPair, PeerId, verify

__all__ = ["NOTE_BYTES_MAX", "Checkpoint", "open_checkpoint", "origin_of", "sign_checkpoint"]

NOTE_BYTES_MAX = 16 * 1024
"""A text of three lines and up to about a hundred witnesses' signatures."""

_SIZE_DIGITS_MAX = 19
_KEY_ID_BYTES = 4
_ED25519 = b"\x01"
_SIGNATURE_PREFIX = "\N{EM DASH} "


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The signed lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def origin_of(network: str) -> str:
    """The origin line, which is also the signing key's name."""
    origin = f"piecework/{network}"
    if not network or not origin.isascii() or not origin.isprintable() or set(origin) & set(" +"):
        raise AuditFailed(f"'{network[:64]}' cannot stand in an origin line.")
    return origin


def sign_checkpoint(checkpoint: Checkpoint, key: KeyPair) -> str:
    """The note, signed. The caller has made durable what it says."""
    text = checkpoint.text()
    blob = _key_id(checkpoint.origin, key.peer_id) + key.sign(text.encode())
    return f"{text}\n{_SIGNATURE_PREFIX}{checkpoint.origin} {base64.b64encode(blob).decode()}\n"


def open_checkpoint(note: str, key: PeerId, *, origin: str | None = None) -> Checkpoint:
    """Verify the log's own signature on a note, then parse it; raises AuditFailed.

    origin: which log it must be; without it any log signed by `key` under its own origin.
    """
    if len(note) > NOTE_BYTES_MAX:
        raise AuditFailed(f"A checkpoint of {len(note)} characters is above {NOTE_BYTES_MAX}.")
    body, separator, signatures = note.rpartition("\n\n")
    if not separator:
        raise AuditFailed("The checkpoint has no signature.")
    text = body + "\n"
    name = text.split("\n", 1)[0]
    if origin is not None and name != origin:
        raise AuditFailed(f"The checkpoint is of the log '{name[:64]}', not '{origin}'.")
    _verify_signature(text, signatures, name, key)
    return _parse(text)


def _verify_signature(text: str, signatures: str, name: str, key: PeerId) -> None:
    key_id = _key_id(name, key)
    for line in signatures.splitlines():
        if not line.startswith(f"{_SIGNATURE_PREFIX}{name} "):
            continue
        blob = _decode_base64(line.rsplit(" ", 1)[1])
        if blob[:_KEY_ID_BYTES] != key_id or len(blob) != _KEY_ID_BYTES + SIGNATURE_BYTES:
            continue
        try:
            verify(key.public_key, text.encode(), blob[_KEY_ID_BYTES:])
        except SignatureInvalid:
            raise AuditFailed("The checkpoint's signature does not match its text.") from None
        return
    raise AuditFailed(f"The checkpoint is not signed by {key.short}.")


def _parse(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise AuditFailed("A checkpoint has an origin, a size and a root.")
    origin, size, root_text = lines[:3]
    is_number = size.isascii() and size.isdecimal() and len(size) <= _SIZE_DIGITS_MAX
    if not is_number or (size[0] == "0" and size != "0"):
        raise AuditFailed("The checkpoint's size is not a number.")
    root = _decode_base64(root_text)
    if len(root) != HASH_BYTES:
        raise AuditFailed(f"The checkpoint's root has {len(root)} bytes, not {HASH_BYTES}.")
    return Checkpoint(origin, int(size), root)


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise AuditFailed("The checkpoint holds something that is not base64.") from None


def _key_id(name: str, key: PeerId) -> bytes:
    digest = hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.public_key).digest()
    return digest[:_KEY_ID_BYTES]
