"""Cosignatures: a witness says that it saw a checkpoint continue all it has seen before. Pure.

    — <witness> <base64 of key id ‖ time in eight bytes ‖ Ed25519 signature>

C2SP tlog-cosignature, `cosignature/v1`: what is signed is that line, `time <unix seconds>`, and the
checkpoint's text. The key id is the first four bytes of SHA-256(name ‖ 0x0A ‖ 0x04 ‖ public key).
Our nodes are called `piecework/witness/<PeerId>`, so their key is in their name; whoever else
cosigns is known by a name and a key that the reader brings.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ledger.checkpoint import (
    KEY_ID_BYTES,
    NOTE_BYTES_MAX,
    key_id,
    parse_signature_line,
    signature_line,
    split_note,
)
from ledger.errors import AuditFailed
from protocol.errors import RemoteProtocolError, SignatureInvalid
from protocol.identity import SIGNATURE_BYTES, KeyPair, PeerId, verify

__all__ = [
    "ED25519_COSIGNATURE",
    "Cosignature",
    "add_lines",
    "cosign",
    "cosignature_text",
    "cosignatures_of",
    "verify_cosignature",
    "witness_name",
]

ED25519_COSIGNATURE = b"\x04"
_NODE = "piecework/witness/"
_TIME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Cosignature:
    """One that verified."""

    name: str
    witness: PeerId
    time_s: int
    """When the witness had seen nothing larger, by its own clock."""


def witness_name(witness: PeerId) -> str:
    """What a node calls itself under a checkpoint."""
    return f"{_NODE}{witness}"


def cosignature_text(text: str, time_s: int) -> bytes:
    """What is signed: the checkpoint's text under a line that says what signing it means."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def cosign(text: str, key: KeyPair, time_s: int) -> str:
    """A node's line under a checkpoint's text. The caller has made durable what it has seen."""
    name = witness_name(key.peer_id)
    signature = key.sign(cosignature_text(text, time_s))
    blob = time_s.to_bytes(_TIME_BYTES, "big") + signature
    return signature_line(name, key_id(name, ED25519_COSIGNATURE, key.peer_id) + blob)


def verify_cosignature(text: str, line: str, name: str, key: PeerId) -> Cosignature:
    """Raise AuditFailed unless `line` is that witness's under exactly this text."""
    signer, blob = parse_signature_line(line)
    expected = key_id(name, ED25519_COSIGNATURE, key)
    length = KEY_ID_BYTES + _TIME_BYTES + SIGNATURE_BYTES
    if signer != name or blob[:KEY_ID_BYTES] != expected or len(blob) != length:
        raise AuditFailed(f"The line is no cosignature of '{name[:64]}'.")
    time_s = int.from_bytes(blob[KEY_ID_BYTES : KEY_ID_BYTES + _TIME_BYTES], "big")
    if time_s >= 1 << 63:
        raise AuditFailed(f"The cosignature of '{name[:64]}' has no time that can be.")
    try:
        signature = blob[KEY_ID_BYTES + _TIME_BYTES :]
        verify(key.public_key, cosignature_text(text, time_s), signature)
    except SignatureInvalid:
        raise AuditFailed(f"The cosignature of '{name[:64]}' does not match.") from None
    return Cosignature(name, key, time_s)


def cosignatures_of(
    note: str, known: Mapping[str, PeerId] | None = None
) -> tuple[Cosignature, ...]:
    """Whoever of our nodes, and of `known` witnesses by name, has cosigned a note.

    Raises AuditFailed where one of theirs does not verify; lines of others are passed over.
    """
    text, lines = split_note(note)
    found: dict[str, Cosignature] = {}
    for line in lines:
        name, _ = parse_signature_line(line)
        key = _key_of(name, known or {})
        if key is not None:
            found[name] = verify_cosignature(text, line, name, key)
    return tuple(found.values())


def add_lines(note: str, lines: Iterable[str]) -> str:
    """The note with more signatures under it, as many as still fit into NOTE_BYTES_MAX."""
    present = set(split_note(note)[1])
    for line in lines:
        if line not in present and len(note) + len(line) < NOTE_BYTES_MAX:
            present.add(line)
            note += line + "\n"
    return note


def _key_of(name: str, known: Mapping[str, PeerId]) -> PeerId | None:
    if name in known or not name.startswith(_NODE):
        return known.get(name)
    try:
        return PeerId.from_text(name.removeprefix(_NODE))
    except RemoteProtocolError:
        raise AuditFailed(f"'{name[:96]}' is the name of no node.") from None
