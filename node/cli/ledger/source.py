"""Where an audit's entries come from: the marketplace, a saved file, or an exported directory."""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO

from ledger.bundle import TOTALS, BundleHeader, BundleReader, BundleTotals
from ledger.checkpoint import open_checkpoint
from ledger.errors import AuditFailed
from ledger.export import check_tiles, read_checkpoint, read_entries
from ledger.tiles import TILE_HASHES, TileName, decode_entries, subtree_from_tiles, tile_width
from ledger.tree import right_edge
from node.app.witness import with_tiles
from node.errors import MarketUnreachable
from node.market_client import MarketClient
from protocol.identity import PeerId

__all__ = ["LogSource", "open_directory", "open_market", "open_saved"]

TILES_AHEAD = 8
"""Requests under way: verifying what is here takes longer than fetching what comes next."""
FETCH_TIMEOUT_S = 60.0


class LogSource:
    """A header, its entries, and what was wrong with where they came from."""

    def __init__(
        self, header: BundleHeader, size: int, entries: Iterator[bytes], problems: list[str]
    ) -> None:
        self.header = header
        self.size = size
        """Entries that are wanted, as the note says; for a progress bar only."""
        self.entries = entries
        self.problems = problems


def open_saved(file: BinaryIO, key: PeerId) -> LogSource:
    """A file of `--save`; raises AuditFailed for one that is none."""
    reader = BundleReader(file)
    size = _size(reader.header.note, key) - reader.header.since
    return LogSource(reader.header, max(0, size), reader.entries(), reader.problems)


def open_directory(path: Path, key: PeerId) -> LogSource:
    """A directory of `piecework-market log export`; every tile in it is made again."""
    note, totals = read_checkpoint(path)
    checkpoint = open_checkpoint(note, key)
    problems = list(check_tiles(path, checkpoint))
    said = _totals(totals) if totals.get("size") == checkpoint.size else None
    if said is None:
        problems.append("totals.json is not of the checkpoint's size")
    header = BundleHeader(note, said)
    return LogSource(header, checkpoint.size, read_entries(path, checkpoint.size), problems)


async def open_market(client: MarketClient, key: PeerId, since: int) -> LogSource:
    """The log as the marketplace shows it, from the newest checkpoint at or below `since`."""
    note, totals = _signed(await client.find_checkpoint())
    size, start = open_checkpoint(note, key).size, 0
    header = BundleHeader(note, totals)
    if since:
        older_note, older_totals = _signed(await client.find_checkpoint(min(since, size)))
        start = open_checkpoint(older_note, key).size
    if start:
        edge = await with_tiles(
            client, lambda read: right_edge(start, subtree_from_tiles(start, read))
        )
        proof = await client.consistency(start, size) if start < size else []
        header = BundleHeader(note, totals, start, older_note, older_totals, edge, tuple(proof))
    loop = asyncio.get_running_loop()
    return LogSource(header, size - start, _fetched(client, loop, start, size), [])


def _fetched(
    client: MarketClient, loop: asyncio.AbstractEventLoop, start: int, size: int
) -> Iterator[bytes]:
    """Entries, read in another thread than the loop's; a few bundles are fetched ahead."""
    names = (
        TileName(None, index, tile_width(0, index, size))
        for index in range(start // TILE_HASHES, -(-size // TILE_HASHES))
    )
    ahead: deque[tuple[TileName, Future[bytes]]] = deque()
    while True:
        while len(ahead) < TILES_AHEAD and (name := next(names, None)) is not None:
            fetch = asyncio.run_coroutine_threadsafe(client.tile(name.path), loop)
            ahead.append((name, fetch))
        if not ahead:
            return
        name, fetch = ahead.popleft()
        try:
            bundle = fetch.result(FETCH_TIMEOUT_S)
        except TimeoutError:
            raise MarketUnreachable(
                f"{name.path} did not come in {FETCH_TIMEOUT_S:.0f} s."
            ) from None
        entries = decode_entries(bundle)
        if len(entries) != name.width:
            raise AuditFailed(f"{name.path} has {len(entries)} entries, not {name.width}.")
        yield from entries[max(0, start - name.index * TILE_HASHES) :]


def _size(note: str, key: PeerId) -> int:
    """For the progress bar; a note that does not verify is the audit's to tell."""
    try:
        return open_checkpoint(note, key).size
    except AuditFailed:
        return 0


def _signed(page: dict[str, Any]) -> tuple[str, BundleTotals]:
    """What the marketplace gives with a checkpoint; raises AuditFailed for another shape."""
    note, totals = page.get("note"), page.get("totals")
    if not isinstance(note, str) or not isinstance(totals, dict):
        raise AuditFailed("The marketplace shows something that is no checkpoint.")
    return note, _totals(totals)


def _totals(said: Mapping[str, Any]) -> BundleTotals:
    found = {name: said[name] for name in TOTALS if isinstance(said.get(name), int)}
    try:
        return BundleTotals(**found)
    except TypeError:
        raise AuditFailed("The book's totals lack one of their sums.") from None
