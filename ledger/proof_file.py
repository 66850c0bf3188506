"""Proof that an entry is in the log, as one file (C2SP tlog-proof): checked with it alone. Pure.

    c2sp.org/tlog-proof@v1
    extra <base64 of the entry>
    index 7
    <base64 of one hash of the inclusion proof>
                                (an empty line)
    <checkpoint, with its cosignatures>

The entry itself stands in the `extra` line, so that the file says what it proves: the format calls
that line unauthenticated, and here the inclusion proof is what authenticates it.
"""

import base64
from dataclasses import dataclass

from ledger.checkpoint import NOTE_BYTES_MAX, Checkpoint, decode_base64, open_checkpoint
from ledger.cosignature import Cosignature, cosignatures_of
from ledger.errors import AuditFailed
from ledger.tiles import ENTRY_BYTES_MAX
from ledger.tree import HASH_BYTES, PROOF_HASHES_MAX, leaf_hash, verify_inclusion
from protocol.identity import PeerId

__all__ = ["PROOF_FILE_BYTES_MAX", "SUFFIX", "LogProof", "verify_proof"]

MAGIC = "c2sp.org/tlog-proof@v1"
SUFFIX = ".tlog-proof"
PROOF_FILE_BYTES_MAX = 2 * ENTRY_BYTES_MAX + NOTE_BYTES_MAX + 64 * PROOF_HASHES_MAX
_DIGITS_MAX = 19


@dataclass(frozen=True, slots=True)
class LogProof:
    """One entry, where it stands, and the note that covers it."""

    entry: bytes
    index: int
    hashes: tuple[bytes, ...]
    note: str

    def encode(self) -> str:
        """The file."""
        lines = [
            MAGIC,
            f"extra {base64.b64encode(self.entry).decode()}",
            f"index {self.index}",
            *(base64.b64encode(item).decode() for item in self.hashes),
            "",
            self.note,
        ]
        return "\n".join(lines)

    @classmethod
    def decode(cls, text: str) -> "LogProof":
        """Parse a stranger's file, but do not verify; raises AuditFailed."""
        if len(text) > PROOF_FILE_BYTES_MAX:
            raise AuditFailed(f"A proof has at most {PROOF_FILE_BYTES_MAX} characters.")
        head, separator, note = text.partition("\n\n")
        lines = head.split("\n")
        if not separator or lines[0] != MAGIC or not 3 <= len(lines) <= 3 + PROOF_HASHES_MAX:
            raise AuditFailed("The file is no proof of a log.")
        extra, index = lines[1], lines[2]
        if not extra.startswith("extra ") or not index.startswith("index "):
            raise AuditFailed("The proof does not say which entry it is about.")
        hashes = tuple(decode_base64(line) for line in lines[3:])
        if any(len(item) != HASH_BYTES for item in hashes):
            raise AuditFailed("The proof holds something that is no hash.")
        return cls(decode_base64(extra[6:]), _parse_index(index[6:]), hashes, note)


def verify_proof(
    proof: LogProof, key: PeerId, *, origin: str | None = None
) -> tuple[Checkpoint, tuple[Cosignature, ...]]:
    """The checkpoint that covers the entry, and who witnessed it; raises AuditFailed."""
    checkpoint = open_checkpoint(proof.note, key, origin=origin)
    verify_inclusion(
        leaf_hash(proof.entry), proof.index, checkpoint.size, proof.hashes, checkpoint.root
    )
    return checkpoint, cosignatures_of(proof.note)


def _parse_index(text: str) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX
    if not is_number or (text[0] == "0" and text != "0"):
        raise AuditFailed(f"'{text[:32]}' is no index.")
    return int(text)
