"""The files of a pull before their bytes come: the index, and weight files of header and hole."""

import asyncio

from node.engine.errors import ShardMismatch
from node.engine.weights import (
    INDEX_BYTES_MAX,
    INDEX_NAME,
    SINGLE_NAME,
    StoredTensor,
    parse_header,
    parse_weight_map,
    read_header,
    written_index,
)
from node.models.checks import check_header
from node.models.errors import NotHeld, SourceLied
from node.models.partial import PartialModel
from node.models.plan import Piece, is_wanted, shard_pieces, stored_pieces, weight_map
from node.models.roster import Roster
from node.models.sources import Source
from protocol.limits import LAYERS_MAX
from protocol.model import ModelManifest
from protocol.route import Span

__all__ = ["Layout"]


class Layout:
    """Of one model: by its manifest, or where there is none by the source's index and headers."""

    def __init__(
        self, storage: PartialModel, roster: Roster, manifest: ModelManifest | None
    ) -> None:
        self._storage = storage
        self._roster = roster
        self._manifest = manifest

    async def lay_out(self, span: Span | None, ends: bool) -> list[Piece]:
        """Make every needed file; the pieces that belong into them. `span` None: all layers.

        Raises ModelFetchFailed, NotHeld, or ShardMismatch for files that contradict one another.
        """
        if span is None:  # an empty span is false, and none at all
            span = Span(0, LAYERS_MAX)
        if self._manifest is None:
            return await self._by_index(span, ends)
        places = weight_map(self._manifest)
        pieces = shard_pieces(self._manifest, span, ends)
        if set(places.values()) != {SINGLE_NAME}:
            self._storage.write_file(INDEX_NAME, written_index(places))
        for file in sorted({piece.file for piece in pieces}):
            await self._make_file(file)
        return pieces

    async def _by_index(self, span: Span, ends: bool) -> list[Piece]:
        places = await self._read_index()
        if places is None:
            return stored_pieces(await self._make_file(SINGLE_NAME), span, ends)
        files = {file for name, file in places.items() if is_wanted(name, span, ends)}
        stored = [tensor for file in sorted(files) for tensor in await self._make_file(file)]
        # A file may hold tensors that the index gives to another; the index decides.
        own = [tensor for tensor in stored if places.get(tensor.name) == tensor.file]
        return stored_pieces(own, span, ends)

    async def _read_index(self) -> dict[str, str] | None:
        try:
            data = await self._roster.ask(
                INDEX_NAME, lambda source: source.read_file(None, INDEX_NAME, INDEX_BYTES_MAX)
            )
        except NotHeld:
            return None
        places = parse_weight_map(data)
        self._storage.write_file(INDEX_NAME, data)
        return places

    async def _make_file(self, file: str) -> list[StoredTensor]:
        """A weight file with its header and holes; what the header places in it."""
        header = self._own_header(file)
        if header is None:
            header = await self._roster.ask(
                f"the header of {file}", lambda source: self._read_header(source, file)
            )
        tensors = parse_header(file, header)
        size_bytes = max((tensor.end for tensor in tensors), default=len(header))
        names = [tensor.name for tensor in tensors]
        await asyncio.to_thread(self._storage.make_weight_file, file, header, size_bytes, names)
        return tensors

    async def _read_header(self, source: Source, file: str) -> bytes:
        manifest = self._manifest
        manifest_hash = None if manifest is None else manifest.manifest_hash
        header = await source.read_header(manifest_hash, file)
        check_header(header, file, manifest)
        return header

    def _own_header(self, file: str) -> bytes | None:
        """The header that an earlier pull has put here, if the manifest says that it is right."""
        if self._manifest is None or not self._manifest.headers:
            return None
        try:
            header = read_header(self._storage.directory, file)
            check_header(header, file, self._manifest)
        except (ShardMismatch, SourceLied):
            return None
        return header
