"""What to fetch: pieces of weight files that a shard needs and the disk has not, in runs.

Pure. A piece is one tensor; a run is pieces that lie one after another in a file and travel in one
request, so that a span of a thousand small tensors is not a thousand round trips. Bytes between
pieces that nobody asked for are not fetched: a request is cheap, a home machine's uplink is not.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from node.engine.errors import ShardMismatch
from node.engine.holdings import is_of_shard
from node.engine.weights import FILE_BYTES_MAX, StoredTensor, layer_of
from protocol.model import ENDS, ModelManifest
from protocol.route import Span

__all__ = ["Piece", "Run", "is_wanted", "plan_runs", "shard_pieces", "stored_pieces", "weight_map"]

RUN_BYTES_MAX = 64 * 1024 * 1024
"""A run ends at this size: several sources can share a file, and a broken one loses little."""

FILES_MAX = 4096
"""Weight files of a model; the largest published ones have under 300."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor's bytes [start, end) of a file, and what they must hash to, if anyone knows."""

    name: str
    file: str
    start: int
    end: int
    sha256: bytes | None

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Run:
    """Pieces of one file without gaps between them; never empty."""

    pieces: tuple[Piece, ...]

    @property
    def file(self) -> str:
        return self.pieces[0].file

    @property
    def size_bytes(self) -> int:
        return self.pieces[-1].end - self.pieces[0].start


def shard_pieces(manifest: ModelManifest, span: Span, ends: bool) -> list[Piece]:
    """The tensors of a shard. Raises ShardMismatch for a manifest that could lead astray.

    A manifest may be a stranger's: a layer that is not the name's, a file that is no weight file
    or a range beyond any file is refused before a byte is written.
    """
    if len({tensor.file for tensor in manifest.tensors}) > FILES_MAX:
        raise ShardMismatch(f"The manifest names more than {FILES_MAX} weight files.")
    if len({tensor.name for tensor in manifest.tensors}) != len(manifest.tensors):
        raise ShardMismatch("The manifest names a tensor twice.")
    for tensor in manifest.tensors:
        if not tensor.file.endswith(".safetensors") or tensor.end > FILE_BYTES_MAX:
            raise ShardMismatch(f"The manifest places '{tensor.name[:64]}' in no weight file.")
        if tensor.layer != layer_of(tensor.name):
            raise ShardMismatch(f"The manifest gives '{tensor.name[:64]}' to another layer.")
    return [
        Piece(tensor.name, tensor.file, tensor.start, tensor.end, tensor.sha256)
        for tensor in manifest.tensors
        if is_of_shard(tensor, span, ends)
    ]


def stored_pieces(tensors: Iterable[StoredTensor], span: Span, ends: bool) -> list[Piece]:
    """The same from weight files' headers, where no manifest is known: nothing to compare with."""
    return [
        Piece(tensor.name, tensor.file, tensor.start, tensor.end, None)
        for tensor in tensors
        if is_wanted(tensor.name, span, ends)
    ]


def weight_map(manifest: ModelManifest) -> dict[str, str]:
    """Tensor to file, for an index that needs nobody's word."""
    return {tensor.name: tensor.file for tensor in manifest.tensors}


def plan_runs(pieces: Iterable[Piece], have: Container[str]) -> list[Run]:
    """The pieces that are not in `have` (names), by file and place, merged into runs."""
    missing = [piece for piece in pieces if piece.name not in have]
    missing.sort(key=lambda piece: (piece.file, piece.start, piece.end))
    return [Run(tuple(group)) for group in _groups(missing)]


def _groups(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    for piece in pieces:
        if group and not _continues(group, piece):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _continues(group: Sequence[Piece], piece: Piece) -> bool:
    first, last = group[0], group[-1]
    return (
        piece.file == last.file
        and piece.start == last.end
        and piece.end - first.start <= RUN_BYTES_MAX
    )


def is_wanted(name: str, span: Span, ends: bool) -> bool:
    """Whether a shard needs the tensor of that name."""
    layer = layer_of(name)
    return ends if layer == ENDS else span.start <= layer < span.end
