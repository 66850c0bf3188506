"""C2SP tlog-witness: how a log hands a checkpoint to any witness, and what comes back. Pure.

old <size>                          the answer, 200: cosignature lines
<base64 of one hash of the proof>   409: the size the witness knows, text/x.tlog.size
…                                   404 unknown log, 403 bad signature, 422 bad proof
                                    (an empty line)
<checkpoint>
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.checkpoint import NOTE_BYTES_MAX, decode_base64, parse_signature_line
from ledger.errors import AuditFailed
from ledger.tree import HASH_BYTES, PROOF_HASHES_MAX

__all__ = [
    "ADD_CHECKPOINT_BYTES_MAX",
    "SIZE_CONTENT_TYPE",
    "AddCheckpoint",
    "compose_lines",
    "compose_size",
    "parse_lines",
    "parse_size",
]

SIZE_CONTENT_TYPE = "text/x.tlog.size"
HASHES_MAX = PROOF_HASHES_MAX - 1
"""The specification's limit on proof lines."""
ADD_CHECKPOINT_BYTES_MAX = NOTE_BYTES_MAX + 45 * HASHES_MAX + 32
_DIGITS_MAX = 19


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """The body of `POST <prefix>/add-checkpoint`."""

    old_size: int
    proof: tuple[bytes, ...]
    note: str

    def compose(self) -> str:
        """What is sent."""
        hashes = "".join(f"{base64.b64encode(item).decode()}\n" for item in self.proof)
        return f"old {self.old_size}\n{hashes}\n{self.note}"

    @classmethod
    def parse(cls, body: str) -> "AddCheckpoint":
        """A stranger's body; raises AuditFailed (400). The note is not yet opened."""
        if len(body) > ADD_CHECKPOINT_BYTES_MAX:
            raise AuditFailed(f"The request is above {ADD_CHECKPOINT_BYTES_MAX} characters.")
        head, separator, note = body.partition("\n\n")
        first, *lines = head.split("\n")
        if not separator or not first.startswith("old ") or len(lines) > HASHES_MAX:
            raise AuditFailed("The request has an old size, a proof, an empty line and a note.")
        proof = tuple(decode_base64(line) for line in lines)
        if any(len(item) != HASH_BYTES for item in proof):
            raise AuditFailed(f"A hash of the proof has not {HASH_BYTES} bytes.")
        return cls(_parse_number(first.removeprefix("old ")), proof, note)


def compose_lines(lines: Sequence[str]) -> str:
    """The body of a witness's 200."""
    return "".join(f"{line}\n" for line in lines)


def parse_lines(body: str) -> list[str]:
    """Signature lines of a witness's 200, without newlines; raises AuditFailed."""
    if len(body) > NOTE_BYTES_MAX or not body.endswith("\n"):
        raise AuditFailed("The witness answered something that is no signature.")
    lines = body[:-1].split("\n")
    for line in lines:
        parse_signature_line(line)
    return lines


def compose_size(size: int) -> str:
    """The body of a witness's 409, as SIZE_CONTENT_TYPE."""
    return f"{size}\n"


def parse_size(body: str) -> int:
    """The size a witness knows, from its 409; raises AuditFailed."""
    if not body.endswith("\n"):
        raise AuditFailed("The witness answered no size.")
    return _parse_number(body[:-1])


def _parse_number(text: str) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX
    if not is_number or (text[0] == "0" and text != "0"):
        raise AuditFailed(f"'{text[:32]}' is no size.")
    return int(text)
