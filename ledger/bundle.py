"""A saved audit: everything that is needed to check a log, or the newer part of it, in one file.

    piecework/log-bundle/v1 LF
    frame*      kind (1 byte) ‖ length (4, big-endian) ‖ payload ‖ check (8)

Kinds: H the header (canonical CBOR: the notes, the totals, where it begins), E a bundle of at most
256 entries as in `ledger/tiles.py`, Z the end, with how many entries there were. The check is the
start of SHA-256 over the frame's place and the frame, so that damage is named by where it is; what
is *believed* follows from signatures alone. Read and written as a stream.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from ledger.audit import Beginning
from ledger.errors import AuditFailed
from ledger.tiles import ENTRY_BYTES_MAX, TILE_HASHES, decode_entries, encode_entries
from protocol.errors import RemoteProtocolError
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields

__all__ = [
    "TOTALS",
    "BundleHeader",
    "BundleReader",
    "BundleTotals",
    "encode_totals",
    "write_bundle",
]

MAGIC = b"piecework/log-bundle/v1\n"
FRAME_BYTES_MAX = TILE_HASHES * (ENTRY_BYTES_MAX + 2)
"""A full bundle of the longest entries."""
HEADER_BYTES_MAX = 128 * 1024
"""Two notes, a right edge of 63 hashes and a proof of as many."""
_CHECK_BYTES = 8
TOTALS = ("charged_nanos", "credited_nanos", "fee_nanos", "parked_nanos")
_HEADER, _ENTRIES, _END = b"H", b"E", b"Z"


@dataclass(frozen=True, slots=True)
class BundleTotals:
    """What the book said at a note's size."""

    charged_nanos: int
    credited_nanos: int
    fee_nanos: int
    parked_nanos: int | None = None


@dataclass(frozen=True, slots=True)
class BundleHeader:
    """What an audit is given besides entries; a `since` of 0 has no older part."""

    note: str
    totals: BundleTotals | None
    since: int = 0
    older_note: str | None = None
    older_totals: BundleTotals | None = None
    frontier: bytes | None = None
    proof: tuple[bytes, ...] = ()

    @property
    def beginning(self) -> Beginning | None:
        """Where the audit begins, if not at the first entry; raises AuditFailed."""
        if not self.since:
            return None
        if self.older_note is None or self.frontier is None:
            raise AuditFailed("The file begins in the midst of a log and does not say where.")
        totals = self.older_totals
        return Beginning(
            self.older_note, self.frontier, self.proof, encode_totals(totals) if totals else {}
        )


def encode_totals(totals: BundleTotals | None) -> dict[str, int]:
    """As `ledger.audit.audit` takes them."""
    if totals is None:
        return {}
    said = {name: getattr(totals, name) for name in TOTALS}
    return {name: amount for name, amount in said.items() if amount is not None}


def write_bundle(file: BinaryIO, header: BundleHeader, entries: Iterable[bytes]) -> Iterator[bytes]:
    """Write as the entries pass through: the caller reads them from here. Closes nothing.

    Stops in the midst if the caller does; a file without its end is refused when it is read.
    """
    file.write(MAGIC)
    place = _write(file, 0, _HEADER, encode_canonical(encode_fields(header)))
    source, count = iter(entries), 0
    while chunk := list(islice(source, TILE_HASHES)):
        place = _write(file, place, _ENTRIES, encode_entries(chunk))
        count += len(chunk)
        yield from chunk
    _write(file, place, _END, count.to_bytes(8, "big"))


class BundleReader:
    """A saved audit, read once from its beginning; `problems` grow while entries are read."""

    def __init__(self, file: BinaryIO) -> None:
        """Reads the header; raises AuditFailed for a file that is none."""
        self.problems: list[str] = []
        self._file = file
        self._place = 0
        if file.read(len(MAGIC)) != MAGIC:
            raise AuditFailed("The file is no saved audit of a log.")
        kind, payload = self._frame(HEADER_BYTES_MAX)
        if kind != _HEADER:
            raise AuditFailed("The file has no header.")
        self.header = _decode_header(payload)

    def entries(self) -> Iterator[bytes]:
        """Every entry; raises AuditFailed where the file cannot be read on."""
        count = 0
        while True:
            start = self._file.tell() if self._file.seekable() else 0
            kind, payload = self._frame(FRAME_BYTES_MAX)
            if kind == _END:
                break
            if kind != _ENTRIES:
                raise AuditFailed(f"At byte {start} there is a part of no kind that is known.")
            chunk = decode_entries(payload)
            count += len(chunk)
            yield from chunk
        if payload != count.to_bytes(8, "big"):
            self.problems.append(f"file: its end says another count than the {count} entries")
        if self._file.read(1):
            self.problems.append("file: there is more after its end")

    def _frame(self, size_max: int) -> tuple[bytes, bytes]:
        head = self._file.read(5)
        size = int.from_bytes(head[1:], "big")
        if len(head) != 5 or size > size_max:
            raise AuditFailed(f"The file is cut off or damaged in part {self._place}.")
        payload, check = self._file.read(size), self._file.read(_CHECK_BYTES)
        if len(payload) != size or len(check) != _CHECK_BYTES:
            raise AuditFailed(f"The file is cut off in part {self._place}.")
        if check != _check(self._place, head, payload):
            self.problems.append(f"file: part {self._place} is damaged")
        self._place += 1
        return head[:1], payload


def _decode_header(payload: bytes) -> BundleHeader:
    try:
        value = decode_canonical(payload, size_max=HEADER_BYTES_MAX)
        header = decode_fields(BundleHeader, value)
    except RemoteProtocolError as error:
        raise AuditFailed(f"The file's header does not parse: {error}") from None
    if header.since < 0:
        raise AuditFailed("The file begins before the log.")
    return header


def _write(file: BinaryIO, place: int, kind: bytes, payload: bytes) -> int:
    head = kind + len(payload).to_bytes(4, "big")
    file.write(head + payload + _check(place, head, payload))
    return place + 1


def _check(place: int, *parts: Sequence[int]) -> bytes:
    digest = hashlib.sha256(place.to_bytes(8, "big"))
    for part in parts:
        digest.update(bytes(part))
    return digest.digest()[:_CHECK_BYTES]
