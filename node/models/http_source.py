"""A mirror: any HTTP server that serves a model directory's files with byte ranges."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence

from node.engine.holdings import MANIFEST_NAME
from node.engine.weights import LENGTH_BYTES, header_bytes
from node.models.errors import NotHeld, SourceFailed
from node.models.http_ranges import HttpRanges
from node.models.plan import Piece
from node.models.sources import FileDigest
from protocol.errors import EngineError, RemoteProtocolError
from protocol.limits import MANIFEST_BYTES_MAX
from protocol.model import ModelManifest

__all__ = ["HttpFiles", "HttpSource"]


class HttpFiles(ABC):
    """A source whose files have URLs: everything but where they are."""

    def __init__(self, ranges: HttpRanges) -> None:
        self._ranges = ranges

    async def manifest(self, manifest_hash: bytes | None, name: str) -> ModelManifest:
        """The file `piecework.manifest`, if it is there: whose hash it has the caller checks."""
        return decode_manifest(await self.read_file(None, MANIFEST_NAME, MANIFEST_BYTES_MAX))

    async def read_file(self, manifest_hash: bytes | None, file: str, bytes_max: int) -> bytes:
        return await self._ranges.read_whole(self._url_of(file), bytes_max)

    async def read_header(self, manifest_hash: bytes | None, file: str) -> bytes:
        return await read_header(self._ranges, self._url_of(file), file)

    def read(
        self, manifest_hash: bytes | None, pieces: Sequence[Piece], offset: int
    ) -> AsyncGenerator[bytes, None]:
        url = self._url_of(pieces[0].file)
        return self._ranges.read(url, pieces[0].start + offset, pieces[-1].end)

    async def close(self) -> None:
        await self._ranges.close()

    @abstractmethod
    def _url_of(self, file: str) -> str:
        """Raises NotHeld for a file that is known not to be there."""


class HttpSource(HttpFiles):
    """`url` is the directory: its config.json is at `url/config.json`."""

    file_digests: Mapping[str, FileDigest] = {}

    def __init__(self, url: str) -> None:
        super().__init__(HttpRanges())
        self._url = url.rstrip("/")

    @property
    def name(self) -> str:
        return self._url

    @property
    def origin(self) -> str:
        return self._url

    def _url_of(self, file: str) -> str:
        return f"{self._url}/{file}"


async def read_header(ranges: HttpRanges, url: str, file: str) -> bytes:
    """A safetensors header by two ranges: its length, then itself."""
    prefix = await ranges.read_range(url, 0, LENGTH_BYTES)
    try:
        size = header_bytes(file, prefix)
    except EngineError as error:
        raise SourceFailed(error.message) from error
    return prefix + await ranges.read_range(url, LENGTH_BYTES, size)


def decode_manifest(data: bytes) -> ModelManifest:
    """A stranger's manifest; a broken one is as good as none."""
    try:
        return ModelManifest.decode(data)
    except RemoteProtocolError as error:
        raise NotHeld(f"Its manifest is broken: {error}") from error
