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

__all__ = [
    "ED25519",
    "KEY_ID_BYTES",
    "NOTE_BYTES_MAX",
    "Checkpoint",
    "decode_base64",
    "key_id",
    "open_checkpoint",
    "origin_of",
    "parse_signature_line",
    "sign_checkpoint",
    "signature_line",
    "split_note",
]

NOTE_BYTES_MAX = 16 * 1024
"""A text of three lines and up to about a hundred witnesses' signatures."""

_SIZE_DIGITS_MAX = 19
KEY_ID_BYTES = 4
ED25519 = b"\x01"
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
    blob = key_id(checkpoint.origin, ED25519, key.peer_id) + key.sign(text.encode())
    return f"{text}\n{signature_line(checkpoint.origin, blob)}\n"


def open_checkpoint(note: str, key: PeerId, *, origin: str | None = None) -> Checkpoint:
    """Verify the log's own signature on a note, then parse it; raises AuditFailed.

    origin: which log it must be; without it any log signed by `key` under its own origin.
    """
    text, lines = split_note(note)
    name = text.split("\n", 1)[0]
    if origin is not None and name != origin:
        raise AuditFailed(f"The checkpoint is of the log '{name[:64]}', not '{origin}'.")
    _verify_signature(text, lines, name, key)
    return _parse(text)


def split_note(note: str) -> tuple[str, list[str]]:
    """The signed text with its newline, and the lines of signatures; raises AuditFailed."""
    if len(note) > NOTE_BYTES_MAX:
        raise AuditFailed(f"A checkpoint of {len(note)} characters is above {NOTE_BYTES_MAX}.")
    try:
        note.encode()
    except UnicodeEncodeError:
        raise AuditFailed("The checkpoint holds something that is not text.") from None
    body, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise AuditFailed("The checkpoint has no signature.")
    lines = signatures[:-1].split("\n")
    if not all(line.startswith(_SIGNATURE_PREFIX) for line in lines):
        raise AuditFailed("The checkpoint has a line that is no signature.")
    return body + "\n", lines


def signature_line(name: str, blob: bytes) -> str:
    """One signature of a note, without its newline."""
    return f"{_SIGNATURE_PREFIX}{name} {base64.b64encode(blob).decode()}"


def parse_signature_line(line: str) -> tuple[str, bytes]:
    """Whose signature a line says it is, and its bytes with the key id; raises AuditFailed."""
    name, _, encoded = line.removeprefix(_SIGNATURE_PREFIX).rpartition(" ")
    if not line.startswith(_SIGNATURE_PREFIX) or not name or set(name) & set(" +"):
        raise AuditFailed("The note has a line that is no signature.")
    blob = decode_base64(encoded)
    if len(blob) <= KEY_ID_BYTES:
        raise AuditFailed("A signature of the note is too short.")
    return name, blob


def key_id(name: str, algorithm: bytes, key: PeerId) -> bytes:
    """Which key a signature says it is by: the start of a hash over its name, kind and key."""
    digest = hashlib.sha256(name.encode() + b"\n" + algorithm + key.public_key).digest()
    return digest[:KEY_ID_BYTES]


def decode_base64(text: str) -> bytes:
    """Standard base64 in its one spelling; raises AuditFailed."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise AuditFailed("The note holds something that is not base64.") from None
    # the last character may have bits to spare: another spelling of the same bytes
    if base64.b64encode(data).decode() != text:
        raise AuditFailed("The note holds base64 that is not in its one spelling.")
    return data


def _verify_signature(text: str, lines: list[str], name: str, key: PeerId) -> None:
    expected = key_id(name, ED25519, key)
    for line in lines:
        signer, blob = parse_signature_line(line)
        if signer != name or blob[:KEY_ID_BYTES] != expected:
            continue
        if len(blob) != KEY_ID_BYTES + SIGNATURE_BYTES:
            continue
        try:
            verify(key.public_key, text.encode(), blob[KEY_ID_BYTES:])
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
    root = decode_base64(root_text)
    if len(root) != HASH_BYTES:
        raise AuditFailed(f"The checkpoint's root has {len(root)} bytes, not {HASH_BYTES}.")
    return Checkpoint(origin, int(size), root)
