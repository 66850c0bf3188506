"""Fetch a model or a shard of it into a directory: manifest, texts, headers, then the weights.

With a manifest every byte that an engine reads is compared with it, whoever sent it: config and
tokenizer by their hash, the headers by theirs, each tensor by its own; the index is written here.
Without one (a hub whose repository has none) a whole model is compared with what the hub says of
its files and its manifest is made; a span alone has nothing to be compared with, and the report
says so.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

from node.engine.errors import ModelNotFound, ShardMismatch
from node.engine.holdings import JOURNAL_NAME, MANIFEST_NAME, read_manifest
from node.engine.store import make_manifest
from node.engine.weights import CONFIG_BYTES_MAX, read_tensors
from node.errors import ConfigInvalid
from node.models.checks import check_digests, check_manifest
from node.models.errors import NotHeld, SourceLied
from node.models.fetcher import Fetcher, require_room, write_failed
from node.models.layout import Layout
from node.models.partial import PartialModel, read_origin
from node.models.plan import Piece, plan_runs
from node.models.progress import Listener, Planned, Told
from node.models.roster import Roster
from node.models.sources import Source
from protocol.model import ModelManifest
from protocol.route import Span

__all__ = ["PullOrder", "PullReport", "pull_model"]

TEXT_BYTES_MAX = 64 * 1024 * 1024
"""A tokenizer.json; the largest published ones have 35 MB."""

TOKENIZER_NAME = "tokenizer.json"
HEAD_TEXTS = (
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip
"""Beside the tokenizer, where there are any."""
LICENCE_TEXTS = ("README.md", "LICENSE", "LICENSE.md")
"""What a manifest's licence is read from."""


@dataclass(frozen=True, slots=True)
class PullOrder:
    """What is wanted. `span` None: the whole model, with its ends; an empty one without ends: the
    manifest and config alone."""

    name: str
    span: Span | None = None
    ends: bool = False
    manifest_hash: bytes | None = None
    """The one that must come, when somebody trusted has said which."""
    texts: bool = False
    """The tokenizer too, where the ends' weights are not wanted: what the head of an open route
    needs."""

    @property
    def has_ends(self) -> bool:
        return self.ends or self.span is None

    @property
    def has_texts(self) -> bool:
        return self.texts or self.has_ends


@dataclass(frozen=True, slots=True)
class PullReport:
    """What is there now."""

    directory: Path
    manifest: ModelManifest | None
    """None: a span without anything that vouches for it."""
    vouched_by: str
    """`manifest`, `hub` (its hashes of whole files), or `nobody`."""
    missing_bytes: int
    there_bytes: int


async def pull_model(
    order: PullOrder, directory: Path, roster: Roster, listener: Listener
) -> PullReport:
    """Fetch what is missing. Raises ModelFetchFailed, EngineError or ConfigInvalid.

    May be cancelled or killed at any moment: what was verified stays, and the next pull goes on.
    """
    _refuse_foreign(order, directory)
    storage = await asyncio.to_thread(PartialModel.open, directory)
    try:
        return await _Pull(order, storage, roster, listener).run()
    except OSError as error:
        raise write_failed(directory, 0, error) from error
    finally:
        await asyncio.to_thread(storage.close)


class _Pull:
    """One pull: its steps in order."""

    def __init__(
        self, order: PullOrder, storage: PartialModel, roster: Roster, listener: Listener
    ) -> None:
        self._order = order
        self._storage = storage
        self._directory = storage.directory
        self._roster = roster
        self._listener = listener
        self._manifest: ModelManifest | None = None

    @property
    def _hash(self) -> bytes | None:
        return None if self._manifest is None else self._manifest.manifest_hash

    async def run(self) -> PullReport:
        self._manifest = await self._find_manifest()
        self._check_span()
        if self._manifest is None:
            self._settle_origin()
        await self._fetch_texts()
        layout = Layout(self._storage, self._roster, self._manifest)
        pieces = await layout.lay_out(self._order.span, self._order.has_ends)
        have = {piece.name for piece in pieces if self._is_here(piece)}
        runs = plan_runs(pieces, have)
        missing_bytes = sum(run.size_bytes for run in runs)
        there_bytes = sum(piece.size_bytes for piece in pieces if piece.name in have)
        tensors = sum(len(run.pieces) for run in runs)
        self._listener(Planned(missing_bytes, there_bytes, tensors))
        require_room(self._directory, missing_bytes)
        await Fetcher(self._roster, self._storage, self._hash, self._listener).fetch(runs)
        vouched_by = "manifest" if self._manifest else await self._vouch()
        return PullReport(self._directory, self._manifest, vouched_by, missing_bytes, there_bytes)

    async def _find_manifest(self) -> ModelManifest | None:
        """The one that lies here, else the first good one that a source has."""
        wanted = self._order.manifest_hash
        stored = read_manifest(self._directory)
        if stored is not None:
            if wanted not in (None, stored.manifest_hash):
                raise ShardMismatch(
                    f"Another version of {self._order.name} is in '{self._directory}'.",
                    hint=f"Remove it first: piecework models rm {self._order.name}",
                )
            return stored

        async def ask(source: Source) -> ModelManifest:
            manifest = await source.manifest(wanted, self._order.name)
            check_manifest(manifest, wanted, self._order.name)
            return manifest

        try:
            manifest = await self._roster.ask("the manifest", ask)
        except NotHeld:
            if wanted is not None:
                raise
            return None
        self._storage.write_file(MANIFEST_NAME, manifest.encode())
        return manifest

    def _check_span(self) -> None:
        span, manifest = self._order.span, self._manifest
        if span is None or manifest is None:
            return
        if span.end > manifest.layers:
            raise ConfigInvalid(
                f"{manifest.name} has layers 0:{manifest.layers}, so it has no span {span}."
            )

    def _settle_origin(self) -> None:
        """Without a manifest one exact version is fetched, from where it was begun."""
        sources = [source for source in self._roster.sources if source.origin]
        begun = read_origin(self._directory)
        if begun is None and sources:
            self._storage.record_origin(sources[0].origin)
        elif sources and begun != sources[0].origin:
            raise ShardMismatch(
                f"A part of {self._order.name} from {begun} is in '{self._directory}', and "
                f"{sources[0].origin} may be another version.",
                hint=f"Remove it first: piecework models rm {self._order.name}",
            )

    async def _fetch_texts(self) -> None:
        """config.json, and for the ends the tokenizer and what belongs to it."""
        manifest = self._manifest
        sha256 = manifest.config_sha256 if manifest else None
        await self._fetch_text("config.json", CONFIG_BYTES_MAX, sha256)
        if self._order.has_texts:
            sha256 = manifest.tokenizer_sha256 if manifest else None
            await self._fetch_text(TOKENIZER_NAME, TEXT_BYTES_MAX, sha256)
        texts = HEAD_TEXTS if self._order.has_texts else ()
        for name in (*texts, *(LICENCE_TEXTS if manifest is None or texts else ())):
            if not (self._directory / name).is_file():
                await self._fetch_optional(name)

    async def _fetch_text(self, name: str, bytes_max: int, sha256: bytes | None) -> None:
        path = self._directory / name
        if path.is_file() and sha256 in (None, hashlib.sha256(path.read_bytes()).digest()):
            return

        async def ask(source: Source) -> bytes:
            data = await source.read_file(self._hash, name, bytes_max)
            if sha256 not in (None, hashlib.sha256(data).digest()):
                raise SourceLied(f"Its {name} is not the manifest's.")
            return data

        try:
            self._storage.write_file(name, await self._roster.ask(name, ask))
        except NotHeld as error:
            raise ModelNotFound(f"{self._order.name} has no {name} at any source.") from error

    async def _fetch_optional(self, name: str) -> None:
        try:
            data = await self._roster.ask(
                name, lambda source: source.read_file(self._hash, name, TEXT_BYTES_MAX)
            )
        except NotHeld:
            return
        self._storage.write_file(name, data)

    def _is_here(self, piece: Piece) -> bool:
        digest = self._storage.fetched.get(piece.name)
        return digest is not None and piece.sha256 in (None, digest)

    async def _vouch(self) -> str:
        """Without a manifest: compare with the hub's hashes, and make the manifest of a whole."""
        if self._order.span is not None:
            return "nobody"
        self._listener(Told("comparing the files with what the source says of them"))
        digests = {n: d for s in self._roster.sources for n, d in s.file_digests.items()}
        unvouched = await asyncio.to_thread(check_digests, self._storage, digests)
        fetched = self._storage.fetched
        tensors = await asyncio.to_thread(read_tensors, self._directory)
        self._manifest = await asyncio.to_thread(
            make_manifest, self._directory, self._order.name, tensors, lambda t: fetched[t.name]
        )
        self._storage.write_file(MANIFEST_NAME, self._manifest.encode())
        return "nobody" if unvouched else "hub"


def _refuse_foreign(order: PullOrder, directory: Path) -> None:
    """What somebody has copied here by hand is theirs: a pull would write into it."""
    if (directory / JOURNAL_NAME).is_file() or not directory.is_dir():
        return
    if any(directory.glob("*.safetensors")):
        raise ShardMismatch(
            f"The files in '{directory}' were not put there by a pull, and are left alone.",
            hint=f"Check them with piecework models verify {order.name}, or move them away.",
        )
