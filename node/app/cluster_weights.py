"""Weights in a cluster: from this machine, from members that have them, from the hub last.

One machine of the house downloads; the others take it from there. With `offline` the hub is not
asked at all.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from node.app.fetching import (
    SourceChoice,
    TellingListener,
    can_be_pulled,
    fetch_model,
    is_missing,
)
from node.app.shard import LoadedModel, load_model
from node.cluster.gossip import Gossip
from node.config import Home, UpConfig
from node.engine.errors import ModelNotFound, ShardMismatch
from node.models.errors import ModelFetchFailed
from node.models.peer_server import WeightServer
from node.models.peer_source import PeerSource
from node.models.progress import FetchEvent, FetchProgress, Listener
from node.models.pull import PullOrder, PullReport, pull_model
from node.models.roster import Roster
from node.models.shelf import SharedModel, Shelf
from node.models.sources import Source
from protocol.machine import MachineRecord, MachineState
from protocol.route import Span
from transport.address import Address, known_addresses
from transport.base import Host

__all__ = ["ClusterWeights", "model_label"]

EMPTY: Final = Span(0, 0)
LAN_BYTES_PER_S: Final = 10**9
"""Sharing within a house is not to be slowed down: a link of 10 Gbit/s is full at 1.2."""
MEETING_S: Final = 4.0
"""How long a machine without the model looks for one that has it, before it asks the hub."""
LOOK_S: Final = 0.25
SHARERS_MAX: Final = 8
"""Members asked at once; more do not fill one machine's link better."""


def model_label(reference: str) -> str:
    """What a machine calls its model before it knows it exactly."""
    return reference if can_be_pulled(reference) else Path(reference).resolve().name


class ClusterWeights:
    """Finds and shares one model. `start` it once the gossip runs."""

    def __init__(
        self,
        config: UpConfig,
        host: Host,
        gossip: Gossip,
        tell: Callable[[str], None],
        *,
        meeting_s: float = MEETING_S,
    ) -> None:
        self._config = config
        self._home = Home(config.home)
        self._host = host
        self._gossip = gossip
        self._tell = tell
        self._meeting_s = meeting_s
        self._listener = _listener(gossip, tell)
        self._shelf = Shelf()
        self._server = WeightServer(
            host,
            self._shelf,
            bytes_per_s_max=LAN_BYTES_PER_S,
            gives_to=gossip.membership.is_member,
        )

    def start(self) -> None:
        self._server.start()

    async def find(self) -> LoadedModel:
        """What the model exactly is, and its text side. Its weights may not all be here.

        Raises ModelNotFound where nobody has it and the hub may not be asked, ModelFetchFailed.
        """
        reference = self._config.model
        model = await self._here()
        if model is None:
            self._gossip.update(state=MachineState.FETCHING)
            self._tell(f"{reference} is not on this machine: asking the others")
            if not await self._learn_from_members():
                await self._ask_hub()
            model = await asyncio.to_thread(load_model, reference, self._home)
        await self.share(model)
        return model

    async def fetch(self, model: LoadedModel, span: Span) -> None:
        """A span's tensors and its ends', where they are not here and can be had."""
        ends = span.start == 0 or span.end == model.manifest.layers
        if not is_missing(model, span, ends=ends):
            return
        if not model.directory.is_relative_to(self._home.models_path):
            return  # a directory of the owner's own: loading says what is missing
        name = str(model.directory.relative_to(self._home.models_path))
        order = PullOrder(name, span, ends, manifest_hash=model.manifest.manifest_hash)
        await self._pull(order, model.directory)
        await self.share(model)

    async def share(self, model: LoadedModel) -> None:
        """Give members what lies here now."""
        with contextlib.suppress(ModelNotFound, ShardMismatch):  # there are no weights yet
            self._shelf.put(
                await asyncio.to_thread(SharedModel.of_directory, model.manifest, model.directory)
            )

    async def _here(self) -> LoadedModel | None:
        try:
            return await asyncio.to_thread(load_model, self._config.model, self._home)
        except (ModelNotFound, ShardMismatch):  # the second: a part without a manifest
            if not can_be_pulled(self._config.model):
                raise
            return None

    async def _learn_from_members(self) -> bool:
        """Take manifest, config and tokenizer from whoever knows the model by this name."""
        loop = asyncio.get_running_loop()
        asks_hub_at = loop.time() + self._meeting_s
        while True:
            knowing = [r for r in self._others() if r.manifest_hash is not None]
            if knowing:
                order = PullOrder(
                    self._config.model, EMPTY, manifest_hash=knowing[0].manifest_hash, texts=True
                )
                await self._pull(order, self._home.models_path / self._config.model)
                return True
            if loop.time() >= asks_hub_at and not self._is_being_fetched():
                return False
            await asyncio.sleep(LOOK_S)

    def _is_being_fetched(self) -> bool:
        """By a machine that came before this one: two downloads would be one too many."""
        own = self._gossip.membership.own
        return any(
            r.state is MachineState.FETCHING
            and (r.joined_at_ms, r.peer_id) < (own.joined_at_ms, own.peer_id)
            for r in self._others()
        )

    async def _ask_hub(self) -> None:
        reference = self._config.model
        if self._config.offline:
            raise ModelNotFound(
                f"There is no model '{reference[:128]}' on this machine or on any other of the "
                "cluster, and with --offline nobody else is asked.",
                hint="Start first the machine that has it, or leave --offline out once.",
            )
        self._tell(f"no machine of the cluster has {reference}: fetching it from the hub")
        await fetch_model(self._home, PullOrder(reference), SourceChoice(), self._listener)

    async def _pull(self, order: PullOrder, directory: Path) -> PullReport:
        """From members, and where they cannot from the hub."""
        peers: list[Source] = [PeerSource(self._host, found) for found in self._sharers(order)]
        if peers:
            try:
                return await pull_model(
                    order, directory, Roster(peers, self._listener), self._listener
                )
            except ModelFetchFailed as error:
                if self._config.offline:
                    raise
                self._tell(f"the others do not have all of it: {error.message}")
        if self._config.offline:
            raise ModelNotFound(
                f"No other machine of the cluster has layers {order.span} of {order.name}, and "
                "with --offline nobody else is asked."
            )
        return await fetch_model(self._home, order, SourceChoice(), self._listener)

    def _sharers(self, order: PullOrder) -> list[list[Address]]:
        same = [r for r in self._others() if r.manifest_hash == order.manifest_hash]
        found = [
            [a for a in known_addresses(record.addresses) if isinstance(a, Address)]
            for record in same[:SHARERS_MAX]
        ]
        return [addresses for addresses in found if addresses]

    def _others(self) -> list[MachineRecord]:
        """Members that were told the same model."""
        own = self._gossip.membership.own.peer_id
        records = self._gossip.records
        label = model_label(self._config.model)
        return [r for r in records if r.peer_id != own and r.model == label]


def _listener(gossip: Gossip, tell: Callable[[str], None]) -> Listener:
    """Lines for the log, and the share done for the table."""
    lines, progress = TellingListener(tell), FetchProgress()

    def listen(event: FetchEvent) -> None:
        lines(event)
        progress(event)
        if progress.missing_bytes:
            percent = min(100, 100 * progress.verified_bytes // progress.missing_bytes)
            gossip.update(done_percent=percent)

    return listen
