"""Where weights come from: the one interface of hub, mirror and peer."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.models.plan import Piece
from protocol.model import ModelManifest

__all__ = ["FileDigest", "Source"]


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a hub says of a whole file: LFS files by SHA-256, others by git's own SHA-1."""

    algorithm: str
    """`sha256`, or `git-sha1`: over `blob {size}\\0` and the bytes."""
    digest: bytes
    size_bytes: int


class Source(Protocol):
    """One place that can be asked. Every method raises SourceFailed, NotHeld or SourceLied.

    `manifest_hash` None: no manifest is known, and a source that goes by manifests has nothing.
    Methods may run at the same time; how many do is the fetcher's limit.
    """

    @property
    def name(self) -> str:
        """For people: what is printed when it is asked, fails or is dropped."""

    @property
    def origin(self) -> str:
        """What the files are, exactly, as text; empty where only a manifest says so."""

    @property
    def file_digests(self) -> Mapping[str, FileDigest]:
        """What it says of whole files; empty where it says nothing."""

    async def manifest(self, manifest_hash: bytes | None, name: str) -> ModelManifest:
        """The manifest of that hash, or the source's own of the model `name`."""

    async def read_file(self, manifest_hash: bytes | None, file: str, bytes_max: int) -> bytes:
        """A small file beside the weights, whole."""

    async def read_header(self, manifest_hash: bytes | None, file: str) -> bytes:
        """A weight file's header with its length before it."""

    def read(
        self, manifest_hash: bytes | None, pieces: Sequence[Piece], offset: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of pieces that follow one another in a file, without the first `offset`.

        Yields chunks of any size up to a MiB, never more bytes than asked for; ends early where
        the source breaks off without saying why.
        """

    async def close(self) -> None: ...
