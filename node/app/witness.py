"""A node as a witness of the public log: it looks now and then, and cosigns what only grew.

What it has seen is on the disk before its cosignature leaves: a witness that forgets can be shown
another history. A fork is kept as a file that anybody can check, and then this node signs no more.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ledger.errors import AuditFailed
from ledger.fork import ForkProven
from ledger.tiles import ReadTile, TileName, subtree_from_tiles
from ledger.tree import HASH_BYTES
from ledger.witness import WitnessState, observe, prove_fork
from node.config import Home
from node.errors import MarketRefused, MarketUnreachable, NodeError
from node.market_client import MarketClient
from protocol.errors import PieceworkError
from protocol.identity import KeyPair, PeerId

__all__ = ["ForkSeen", "LogWitness", "Witnessed", "with_tiles", "witnessing"]

WITNESS_EVERY_S = 60.0
"""Often enough that a receipt is witnessed within minutes, and a request a minute costs nothing."""
TILES_MAX = 256
"""Fetched for one computation: a proof needs two a level."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


class ForkSeen(NodeError):
    """The marketplace's log contradicts itself; the proof is in `path`."""

    def __init__(self, why: str, path: Path) -> None:
        super().__init__(
            f"{why} Nothing was signed. The proof is in {path}.",
            hint="Anybody can check it: piecework ledger verify-fork FILE --market-key KEY.",
        )
        self.path = path


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What one look came to."""

    size: int
    root: bytes
    line: str
    posted: bool
    """False where the marketplace has witnesses enough."""


class LogWitness:
    """One node's witness of one marketplace's log."""

    def __init__(
        self,
        home: Home,
        key: KeyPair,
        client: MarketClient,
        log_key: PeerId,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._directory = home.path / "witness"
        self._path = self._directory / f"{log_key}.note"
        self._key = key
        self._client = client
        self._log_key = log_key
        self._clock = clock
        self._posted_size = -1

    def state(self) -> WitnessState | None:
        """What was seen last; raises AuditFailed for a file that is damaged."""
        try:
            note = self._path.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise AuditFailed(f"{self._path} cannot be read: {error}.") from None
        return WitnessState.of(note, self._log_key)

    async def look(self) -> Witnessed:
        """Fetch the newest checkpoint, and cosign it if it continues the last.

        Raises AuditFailed for what does not verify, ForkSeen for a proven fork, and
        MarketUnreachable; nothing is signed then.
        """
        state = self.state()
        note = await self._client.checkpoint()
        try:
            size = int(note.split("\n", 2)[1][:19])  # believed by nobody before it is verified
        except (IndexError, ValueError):
            raise AuditFailed("The marketplace shows something that is no checkpoint.") from None
        proof = []
        if state is not None and 0 < state.size < size:
            proof = await self._client.consistency(state.size, size)
        try:
            observed = observe(
                state, note, proof,
                log_key=self._log_key, witness=self._key, now_s=int(self._clock()),
            )  # fmt: skip
        except ForkProven as error:
            raise self._keep(error) from error
        except AuditFailed:
            if state is not None and state.size < size:
                await self._try_to_prove(state, note, size)
            raise
        await asyncio.to_thread(_write_durably, self._path, observed.state.note)
        posted = await self._post(size, observed.line)
        return Witnessed(size, observed.state.root, observed.line, posted)

    async def watch(self, tell: Callable[[str], None], *, every_s: float = WITNESS_EVERY_S) -> None:
        """Look again and again until cancelled, or until the log is found to be forked."""
        while True:
            try:
                await self.look()
            except ForkSeen as error:
                tell(str(error))
                return
            except PieceworkError as error:
                # the marketplace may be away for a while, and a bad proof says nothing yet
                logger.warning("not witnessed: %s", error)
            await asyncio.sleep(every_s)

    async def _post(self, size: int, line: str) -> bool:
        if size == self._posted_size:
            return True
        try:
            await self._client.cosign(size, line)
        except MarketRefused as error:
            if error.code != "cosignatures_full":
                raise
            return False
        self._posted_size = size
        return True

    async def _try_to_prove(self, state: WitnessState, note: str, size: int) -> None:
        """A proof that tells nothing: see whether the tiles under the signed root do."""
        with contextlib.suppress(AuditFailed, MarketRefused, MarketUnreachable):
            try:
                await with_tiles(
                    self._client,
                    lambda read: prove_fork(
                        state, note, self._log_key, subtree_from_tiles(size, read)
                    ),
                )
            except ForkProven as error:
                raise self._keep(error) from error

    def _keep(self, error: ForkProven) -> ForkSeen:
        text = error.proof.encode()
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = self._directory / f"fork-{name}.json"
        _write_durably(path, text)
        return ForkSeen(error.message, path)


@contextlib.asynccontextmanager
async def witnessing(witness: LogWitness, tell: Callable[[str], None]) -> AsyncIterator[None]:
    """Watch the log as long as the context is open."""
    task = asyncio.create_task(witness.watch(tell))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def with_tiles(client: MarketClient, compute: Callable[[ReadTile], T]) -> T:
    """Run a computation over tiles, fetching those it turns out to need.

    Raises AuditFailed where it needs more than TILES_MAX or a tile has another size than asked for.
    """
    tiles: dict[TileName, bytes] = {}

    def read(level: int, index: int, width: int) -> bytes:
        name = TileName(level, index, width)
        if name not in tiles:
            raise _Missing(name)
        return tiles[name]

    while len(tiles) <= TILES_MAX:
        try:
            return compute(read)
        except _Missing as missing:
            data = await client.tile(missing.name.path)
            if len(data) != missing.name.width * HASH_BYTES:
                raise AuditFailed(f"{missing.name.path} has {len(data)} bytes.") from None
            tiles[missing.name] = data
    raise AuditFailed(f"More than {TILES_MAX} tiles are needed.")


class _Missing(Exception):
    def __init__(self, name: TileName) -> None:
        super().__init__(name.path)
        self.name = name


def _write_durably(path: Path, text: str) -> None:
    """Whole or not at all, and on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
