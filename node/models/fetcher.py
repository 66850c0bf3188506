"""Runs a plan: pieces from several sources at once, each verified before it counts.

A piece is written to its place as it comes, hashed on the way, and recorded in the journal when
the hash is the manifest's. What a source has sent of a piece is kept over its own failures, so a
broken connection goes on where it broke; another source begins that piece anew, because of two
halves nobody could say who lied.
"""

import asyncio
import contextlib
import errno
import hashlib
import shutil
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from node.models.errors import DiskFull, ModelFetchFailed, NotHeld, SourceFailed, SourceLied
from node.models.plan import Piece, Run
from node.models.progress import Listener, Received, TensorVerified
from node.models.roster import Roster, Standing

__all__ = ["Fetcher", "Storage", "require_room", "write_failed"]

BUFFER_BYTES: Final = 1024 * 1024
"""Written and hashed at a time, in a thread."""

DISK_SPARE_BYTES: Final = 64 * 1024 * 1024
"""Left free, so that a pull does not stop the machine from logging in."""


class Storage(Protocol):
    """Where pieces go: `node.models.partial.PartialModel`."""

    directory: Path

    def write(self, file: str, start: int, data: bytes | memoryview) -> None: ...

    def record(self, name: str, sha256: bytes) -> None: ...

    def sync(self, file: str) -> None: ...


def require_room(directory: Path, needed_bytes: int) -> None:
    """Raise DiskFull where the disk cannot take so many more bytes."""
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes and needed_bytes + DISK_SPARE_BYTES > free_bytes:
        raise DiskFull(str(directory), needed_bytes, free_bytes)


def write_failed(directory: Path, needed_bytes: int, error: OSError) -> ModelFetchFailed:
    """A refusal of the disk as ours: DiskFull for the one that is expected."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(str(directory), needed_bytes, shutil.disk_usage(directory).free)
    return ModelFetchFailed(f"'{directory}' could not be written: {error}.")


class Fetcher:
    """One fetch of one model's runs; made, run once, and thrown away."""

    def __init__(
        self, roster: Roster, storage: Storage, manifest_hash: bytes | None, listener: Listener
    ) -> None:
        self._roster = roster
        self._storage = storage
        self._manifest_hash = manifest_hash
        self._listener = listener
        self._jobs: deque[_Job] = deque()
        self._left_bytes = 0

    async def fetch(self, runs: Sequence[Run]) -> None:
        """Fetch all. Raises ModelFetchFailed; what was verified until then stays."""
        self._jobs = deque(_Job(deque(run.pieces)) for run in runs)
        self._left_bytes = sum(run.size_bytes for run in runs)
        workers = min(self._roster.patience.concurrent_max, len(runs))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work())
        except ExceptionGroup as failed:  # one reason is enough, and the others follow from it
            raise failed.exceptions[0] from None

    async def _work(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            while job.pieces:
                standing = await self._roster.choose(f"'{job.pieces[0].name}'", job.lacking)
                await self._try(job, standing)
            await asyncio.to_thread(self._storage.sync, job.file)

    async def _try(self, job: "_Job", standing: Standing) -> None:
        """Let one source bring what it can of a job."""
        job.begin(standing)
        standing.in_flight += 1
        try:
            await self._transfer(job, standing)
        except NotHeld as error:
            standing.reason = error.message
            job.lacking.append(standing)
        except SourceFailed as error:
            self._roster.blame(standing, error)
        finally:
            standing.in_flight -= 1

    async def _transfer(self, job: "_Job", standing: Standing) -> None:
        source = standing.source
        async with contextlib.aclosing(
            source.read(self._manifest_hash, tuple(job.pieces), job.position)
        ) as chunks:
            while job.pieces:
                buffer, failure = await self._gather(job, source.name, chunks)
                for piece in await self._store(job, buffer):
                    self._left_bytes -= piece.size_bytes
                    self._listener(TensorVerified(piece.name, piece.size_bytes))
                if job.fault:
                    raise SourceLied(job.fault)
                if buffer:
                    standing.failures = 0  # it got further
                if failure is not None:
                    raise failure

    async def _gather(
        self, job: "_Job", source: str, chunks: AsyncGenerator[bytes, None]
    ) -> tuple[bytearray, SourceFailed | None]:
        """The next MiB, or the rest of the job if that is less; or what came until a failure."""
        wanted = min(BUFFER_BYTES, job.left_bytes)
        buffer = bytearray()
        timeout_s = self._roster.patience.chunk_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                while len(buffer) < wanted:
                    chunk = await anext(chunks, None)
                    if chunk is None:
                        return buffer, SourceFailed("It broke off early.")
                    if len(buffer) + len(chunk) > job.left_bytes:
                        return buffer, SourceFailed("It sent more than was asked for.")
                    buffer += chunk
                    self._listener(Received(source, len(chunk)))
        except TimeoutError:
            return buffer, SourceFailed(f"It sent {len(buffer)} bytes in {timeout_s:g} s.")
        except SourceFailed as error:
            return buffer, error
        return buffer, None

    async def _store(self, job: "_Job", buffer: bytearray) -> list[Piece]:
        """Write and hash in a thread; the pieces that are whole and right now."""
        try:
            return await asyncio.to_thread(job.absorb, buffer, self._storage)
        except OSError as error:
            raise write_failed(self._storage.directory, self._left_bytes, error) from error


@dataclass(slots=True)
class _Job:
    """A run under way: the pieces that are left, and how far the first one is."""

    pieces: deque[Piece]
    position: int = 0
    """Bytes of the first piece that are written."""
    lacking: list[Standing] = field(default_factory=list)
    """Sources that do not have the first piece."""
    fault: str = ""
    """What the present source sent wrong."""
    file: str = ""
    _sender: Standing | None = None
    _digest: Any = None

    def __post_init__(self) -> None:
        self.file = self.pieces[0].file

    @property
    def left_bytes(self) -> int:
        return self.pieces[-1].end - self.pieces[0].start - self.position

    def begin(self, standing: Standing) -> None:
        """Go on with a source, or start the first piece anew with another."""
        if standing is not self._sender or self.fault:
            self._sender, self.fault = standing, ""
            self._restart()

    def absorb(self, buffer: bytearray, storage: Storage) -> list[Piece]:
        """Put bytes at their place. Blocks; stops at a wrong piece and says so in `fault`."""
        done: list[Piece] = []
        view = memoryview(buffer)
        while self.pieces and not self.fault:
            piece = self.pieces[0]
            part = view[: piece.size_bytes - self.position]
            storage.write(piece.file, piece.start + self.position, part)
            self._digest.update(part)
            self.position += len(part)
            view = view[len(part) :]
            if self.position < piece.size_bytes:
                break
            if self._finish(piece, storage):
                done.append(piece)
        return done

    def _finish(self, piece: Piece, storage: Storage) -> bool:
        digest = self._digest.digest()
        self._restart()
        if piece.sha256 is not None and digest != piece.sha256:
            self.fault = f"Its '{piece.name}' is not the manifest's."
            return False
        storage.record(piece.name, digest)
        self.pieces.popleft()
        self.lacking.clear()
        return True

    def _restart(self) -> None:
        self.position = 0
        self._digest = hashlib.sha256()
