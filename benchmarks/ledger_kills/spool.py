"""How the head's receipts reach the providers here: a file for each batch, laid whole or not at
all. It stands for the data connection between them, and keeps what was said while either is dead.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Slip", "batch_name", "lay", "outstanding", "take"]

_FRAME = struct.Struct(">16sI")


@dataclass(frozen=True, slots=True)
class Slip:
    """One receipt of the payer's, and the lease it is under."""

    lease_id: bytes
    envelope: bytes


def batch_name(cohort: int, sequence: int) -> str:
    """Sorts in the order in which they were laid."""
    return f"{cohort:06d}-{sequence:04d}"


def lay(folder: Path, name: str, slips: Sequence[Slip]) -> None:
    """Put a batch there; the same again replaces it."""
    made = folder / f".{name}"
    made.write_bytes(b"".join(_FRAME.pack(s.lease_id, len(s.envelope)) + s.envelope for s in slips))
    os.replace(made, folder / name)


def outstanding(folder: Path) -> list[str]:
    """Names of the batches that wait, in their order."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def take(folder: Path, name: str) -> list[Slip]:
    """Read a batch; it stays until it is unlinked."""
    data, slips, at = (folder / name).read_bytes(), [], 0
    while at < len(data):
        lease_id, size = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        slips.append(Slip(lease_id, data[at : at + size]))
        at += size
    return slips
