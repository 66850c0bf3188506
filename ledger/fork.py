"""Portable proof that a log was forked: two notes by one key that cannot both be true. Pure.

    {"format": "piecework/fork-proof@v1", "older": NOTE, "newer": NOTE, "hashes": [BASE64, …]}

Either both notes have the same size and another root, or the hashes, folded as a consistency proof
is, come to the newer root and to another older one. Nothing else is needed to check it but the
log's key, so the file can be handed to anybody.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from ledger.checkpoint import (
    NOTE_BYTES_MAX,
    Checkpoint,
    decode_base64,
    open_checkpoint,
    parse_signature_line,
    split_note,
)
from ledger.errors import AuditFailed, ForkDetected
from ledger.tree import HASH_BYTES, PROOF_HASHES_MAX, consistency_roots
from protocol.identity import PeerId

__all__ = ["FORK_PROOF_BYTES_MAX", "ForkProof", "ForkProven", "verify_fork"]

FORMAT = "piecework/fork-proof@v1"
FORK_PROOF_BYTES_MAX = 4 * NOTE_BYTES_MAX
"""Of a file that is read; one of ours has less than 5 kB."""


@dataclass(frozen=True, slots=True)
class ForkProof:
    """Two signed notes and what shows that they contradict; `hashes` are none at equal sizes."""

    older: str
    newer: str
    hashes: tuple[bytes, ...] = ()

    def encode(self) -> str:
        """The file. Of the notes' signatures only the log's own are kept."""
        value = {
            "format": FORMAT,
            "older": _without_witnesses(self.older),
            "newer": _without_witnesses(self.newer),
            "hashes": [base64.b64encode(item).decode() for item in self.hashes],
        }
        return json.dumps(value, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def decode(cls, text: str) -> "ForkProof":
        """Parse a stranger's file, but do not verify; raises AuditFailed."""
        if len(text) > FORK_PROOF_BYTES_MAX:
            raise AuditFailed(f"A fork proof has at most {FORK_PROOF_BYTES_MAX} characters.")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise AuditFailed("The file is no fork proof.") from None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise AuditFailed("The file is no fork proof.")
        older, newer, hashes = value.get("older"), value.get("newer"), value.get("hashes")
        if not isinstance(older, str) or not isinstance(newer, str) or not _is_texts(hashes):
            raise AuditFailed("The fork proof lacks a note.")
        return cls(older, newer, tuple(decode_base64(item) for item in hashes))


class ForkProven(ForkDetected):
    """The log signed two things that cannot both be true; `proof` shows it to anybody."""

    def __init__(self, message: str, proof: ForkProof) -> None:
        super().__init__(message, hint="Keep the proof, and show it to others.")
        self.proof = proof


def verify_fork(proof: ForkProof, key: PeerId) -> tuple[Checkpoint, Checkpoint]:
    """Both checkpoints, if `key` signed both and they contradict; raises AuditFailed if not."""
    older, newer = open_checkpoint(proof.older, key), open_checkpoint(proof.newer, key)
    if older.origin != newer.origin:
        raise AuditFailed("The notes are of two logs, which may differ.")
    if older.size == newer.size:
        if older.root == newer.root:
            raise AuditFailed("The notes say the same.")
        return older, newer
    if any(len(item) != HASH_BYTES for item in proof.hashes):
        raise AuditFailed("The fork proof holds something that is no hash.")
    old_root, root = consistency_roots(older.size, newer.size, proof.hashes)
    if root != newer.root:
        raise AuditFailed("The hashes do not come to the newer root, so they show nothing.")
    if old_root == older.root:
        raise AuditFailed("The hashes come to both roots: the log only grew.")
    return older, newer


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return (
        isinstance(value, list)
        and len(value) <= PROOF_HASHES_MAX
        and all(isinstance(item, str) for item in value)
    )


def _without_witnesses(note: str) -> str:
    """The note with the signatures under its own name alone: what keeps a proof small."""
    text, lines = split_note(note)
    name = text.split("\n", 1)[0]
    own: Sequence[str] = [line for line in lines if parse_signature_line(line)[0] == name]
    return f"{text}\n" + "".join(f"{line}\n" for line in own)
