"""Weights that are not here: which sources there are, and fetching before a program loads."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.app.shard import LoadedModel, load_model
from node.config import Home
from node.engine.errors import ModelNotFound, ShardMismatch
from node.engine.holdings import missing_tensors, read_holdings
from node.engine.store import MODEL_NAME, TINY_MODEL
from node.errors import ConfigInvalid
from node.market_client import MarketClient
from node.models.errors import ModelFetchFailed, NothingVouches
from node.models.http_source import HttpSource
from node.models.hub_source import HubSource
from node.models.partial import read_origin
from node.models.peer_source import PeerSource
from node.models.progress import (
    FetchEvent,
    FetchProgress,
    Listener,
    Planned,
    Received,
    SourceDropped,
    Told,
)
from node.models.pull import PullOrder, PullReport, pull_model
from node.models.roster import Roster
from node.models.sources import Source
from protocol.errors import EngineError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.route import Span
from transport.address import Address
from transport.quic.host import QuicHost

__all__ = [
    "HUB",
    "SourceChoice",
    "TellingListener",
    "can_be_pulled",
    "fetch_for_pool",
    "fetch_missing",
    "fetch_model",
    "is_missing",
    "load_or_fetch",
    "size_text",
]

HUB = "hub"
"""The source that is asked when none is named."""
PEERS_MAX = 4
"""Providers of the same model that are asked for weights; more do not fill a home link better."""
TELL_EVERY_S = 10.0
EMPTY = Span(0, 0)


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """Where to fetch from: `hub`, URLs of mirrors, and peers' multiaddrs; none: the hub."""

    texts: tuple[str, ...] = ()
    revision: str | None = None
    """Of the hub; None: what an earlier pull has begun with, else the main branch."""


async def fetch_model(
    home: Home, order: PullOrder, choice: SourceChoice, listener: Listener
) -> PullReport:
    """Fetch a model or a shard of it into the home's models directory."""
    if order.name.endswith(".gguf"):
        raise ConfigInvalid(
            f"'{order.name[:128]}' is a file to be converted.",
            hint=f"Run piecework models convert {order.name[:128]} --as org/name",
        )
    if not MODEL_NAME.fullmatch(order.name) or order.name == TINY_MODEL:
        raise ConfigInvalid(
            f"'{order.name[:128]}' cannot be pulled.",
            hint="Give a name as the hub has it, org/name; piecework/tiny comes with the program.",
        )
    directory = home.models_path / order.name
    async with _opened(home, order.name, directory, choice) as sources:
        return await pull_model(order, directory, Roster(sources, listener), listener)


async def load_or_fetch(
    reference: str, home: Home, tell: Callable[[str], None], listener: Listener | None = None
) -> LoadedModel:
    """A whole model for this machine alone; from the hub what is not here."""
    listener = listener or TellingListener(tell)
    try:
        model = await asyncio.to_thread(load_model, reference, home)
    except (ModelNotFound, ShardMismatch):  # the second: a part without a manifest
        if not can_be_pulled(reference):
            raise
    else:
        if not is_missing(model, Span(0, model.manifest.layers), ends=True):
            return model
    tell(f"{reference} is not on this machine, or not whole: fetching it")
    await fetch_model(home, PullOrder(reference), SourceChoice(), listener)
    return await asyncio.to_thread(load_model, reference, home)


async def fetch_for_pool(
    reference: str, home: Home, client: MarketClient, tell: Callable[[str], None]
) -> LoadedModel:
    """What a node must know before it takes part: the model's exact manifest, and the config.

    Weights come later, and only those of its shard. Raises NothingVouches where neither the pool
    nor the hub has a manifest.
    """
    try:
        return await asyncio.to_thread(load_model, reference, home)
    except (ModelNotFound, ShardMismatch):  # the second: a part without a manifest
        if not can_be_pulled(reference):
            raise
    manifest_hash = await _catalogue_hash(client, reference)
    order = PullOrder(reference, EMPTY, manifest_hash=manifest_hash)
    tell(f"{reference} is not on this machine: asking for its manifest")
    try:
        report = await _fetch_from_pool(home, order, client, tell)
    except ModelFetchFailed as error:
        raise NothingVouches(
            f"The manifest of {reference} could not be had. {error.message}",
            hint=f"Fetch the model whole once: piecework models pull {reference}",
        ) from error
    if report.manifest is None:
        raise NothingVouches(
            f"Nothing vouches for the weights of {reference}: the pool does not know it, and the "
            "hub has no manifest of it.",
            hint=f"Fetch it whole once, which makes one: piecework models pull {reference}",
        )
    return LoadedModel(report.directory, report.manifest)


async def fetch_missing(
    model: LoadedModel,
    span: Span,
    home: Home,
    client: MarketClient,
    tell: Callable[[str], None],
    *,
    ends: bool = False,
) -> None:
    """A shard's tensors, if some are not here and the model is one that was pulled.

    With `ends` the tokenizer too: a gateway asks for the ends with an empty span.
    """
    is_pulled = model.directory.is_relative_to(home.models_path)
    if not is_pulled or not is_missing(model, span, ends=ends):
        return
    name = str(model.directory.relative_to(home.models_path))
    order = PullOrder(name, span, ends, manifest_hash=model.manifest.manifest_hash)
    await _fetch_from_pool(home, order, client, tell)


async def _fetch_from_pool(
    home: Home, order: PullOrder, client: MarketClient, tell: Callable[[str], None]
) -> PullReport:
    """From providers of the same manifest that share, and from the hub if it answers."""
    peers = await _sharing_peers(client, order.manifest_hash) if order.manifest_hash else ()
    listener = TellingListener(tell)
    try:
        return await fetch_model(home, order, SourceChoice((*peers, HUB)), listener)
    except (ModelNotFound, ModelFetchFailed):
        if not peers:
            raise
    return await fetch_model(home, order, SourceChoice(peers), listener)


async def _catalogue_hash(client: MarketClient, name: str) -> bytes | None:
    for entry in await client.models():
        if entry["id"] == name:
            return bytes.fromhex(entry["manifest_hash"])
    return None


async def _sharing_peers(client: MarketClient, manifest_hash: bytes) -> tuple[str, ...]:
    offers: Sequence[dict[str, Any]] = await client.offers()
    same = [offer for offer in offers if offer["manifest_hash"] == manifest_hash.hex()]
    return tuple(text for offer in same[:PEERS_MAX] for text in offer["addresses"])


@contextlib.asynccontextmanager
async def _opened(
    home: Home, name: str, directory: Path, choice: SourceChoice
) -> AsyncIterator[list[Source]]:
    """The sources of a choice, closed at the end."""
    async with contextlib.AsyncExitStack() as stack:
        sources: list[Source] = []
        peers: dict[PeerId, list[Address]] = {}
        for text in choice.texts or (HUB,):
            if text == HUB:
                sources.append(await _open_hub(name, directory, choice.revision))
            elif text.startswith(("http://", "https://")):
                sources.append(HttpSource(text))
            else:
                address = _address(text)
                peers.setdefault(address.peer_id, []).append(address)
        if peers:
            host = await QuicHost.start(home.load_or_create_key(), listen_host="0.0.0.0")
            stack.push_async_callback(host.close)
            sources[:0] = [PeerSource(host, addresses) for addresses in peers.values()]
        for source in sources:
            stack.push_async_callback(source.close)
        yield sources


async def _open_hub(name: str, directory: Path, revision: str | None) -> HubSource:
    begun = read_origin(directory) or ""
    prefix = f"hub:{name}@"
    if revision is None and begun.startswith(prefix):
        revision = begun.removeprefix(prefix)
    return await HubSource.open(name, revision=revision)


def _address(text: str) -> Address:
    try:
        return Address.from_text(text)
    except RemoteProtocolError as error:
        raise ConfigInvalid(
            f"'{text[:128]}' is no source.",
            hint="Give hub, a URL, or a peer as /ip4/HOST/udp/PORT/quic-v1/p2p/PEERID.",
        ) from error


def can_be_pulled(reference: str) -> bool:
    return MODEL_NAME.fullmatch(reference) is not None and not Path(reference).exists()


def is_missing(model: LoadedModel, span: Span, *, ends: bool) -> bool:
    """Whether a shard is not all here. A directory without any weights lacks everything."""
    try:
        holdings = read_holdings(model.directory)
    except EngineError:
        return True
    return bool(missing_tensors(model.manifest, holdings, span, ends))


@dataclass(slots=True)
class TellingListener:
    """Plain lines about a fetch, not more than one in ten seconds: for logs and services."""

    tell: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    progress: FetchProgress = field(default_factory=FetchProgress)
    _told_at_s: float = 0.0
    _started_at_s: float = 0.0

    def __call__(self, event: FetchEvent) -> None:
        self.progress(event)
        match event:
            case Planned(missing_bytes=missing, there_bytes=there) if missing:
                self._started_at_s = self._told_at_s = self.clock()
                here = f", {size_text(there)} are here already" if there else ""
                self.tell(f"fetching {size_text(missing)}{here}")
            case SourceDropped(source=source, reason=reason, is_for_good=for_good):
                self.tell(f"{source} is {'dropped' if for_good else 'given up'}: {reason}")
            case Told(message=message):
                self.tell(message)
            case Received() if self.clock() - self._told_at_s >= TELL_EVERY_S:
                self._told_at_s = self.clock()
                self.tell(self._line())

    def _line(self) -> str:
        progress = self.progress
        received = sum(progress.received_bytes.values())
        rate = received / max(self._told_at_s - self._started_at_s, 1e-9)
        return f"{size_text(received)} of {size_text(progress.missing_bytes)}, {size_text(rate)}/s"


def size_text(count: float) -> str:
    """Bytes for people: three digits and a unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.2f} GiB"
