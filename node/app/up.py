"""`piecework up`: one machine of a private cluster. The same on every machine, and no master.

    identity → host → gossip (who is here) → the model, exactly → room → plan → span → answers

Nothing leaves the LAN but a question for the model to the hub, and with `offline` not even that.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from node.api.application import create_api
from node.api.local_status import StatusPage
from node.api.readiness import Readiness, ReadyState
from node.api.serving import serve_api
from node.api.settings import ApiSettings
from node.app.cluster_view import announcements, cluster_view
from node.app.cluster_weights import ClusterWeights
from node.app.drafting import start_drafting
from node.app.first_record import first_record, is_loopback
from node.app.network import network_view
from node.app.room import room_for
from node.app.shard import LoadedModel
from node.app.span_keeper import SpanKeeper
from node.app.waiting import unless_told, until_told
from node.cluster.agreement import Agreement
from node.cluster.follower import Follower
from node.cluster.gossip import Gossip
from node.cluster.handshake import derive_secret
from node.config import Home, UpConfig
from node.head.models import HeadModel
from node.head.service import HeadService
from node.router.lan import LanRouter
from protocol.identity import KeyPair
from protocol.machine import MachineState
from transport.address import Address
from transport.base import Host
from transport.home_host import HomeHost
from transport.lan.discovery import Discovery
from transport.lan.mdns import MdnsDiscovery
from transport.lan.static import StaticDiscovery
from transport.own_link import OwnLinkHost

__all__ = ["LanNetwork", "NetworkOpener", "View", "open_lan", "run_up"]

DRAIN_TIMEOUT_S: Final = 30.0
"""On leaving: answers under way get this long."""
ADDRESSES_S: Final = 3.0
"""How soon a change of this machine's addresses is noticed."""
SHOW_S: Final = 1.0
"""The view is made anew with every change, and as often as this."""

View = Callable[[dict[str, object]], None]
"""Shows the cluster; called in the event loop, about once a second."""


@dataclass(frozen=True, slots=True)
class LanNetwork:
    """A host that is not started by anybody else, and what finds its neighbours."""

    host: Host
    discoveries: Sequence[Discovery]


NetworkOpener = Callable[[KeyPair, UpConfig], Awaitable[LanNetwork]]


async def open_lan(key: KeyPair, config: UpConfig) -> LanNetwork:
    """The data socket, multicast DNS within the cluster's name, and the addresses that were typed.

    Raises OSError and LocalProtocolError for what cannot be bound or read.
    """
    host = await HomeHost.start(key, listen_host=config.listen_host, port=config.listen_port)
    discoveries: list[Discovery] = []
    if config.discovers:
        discoveries.append(MdnsDiscovery(key.peer_id, config.cluster_name))
    if config.peers:
        discoveries.append(StaticDiscovery(host, config.peers))
    return LanNetwork(host, discoveries)


async def run_up(
    config: UpConfig,
    stop: asyncio.Event,
    tell: Callable[[str], None],
    *,
    show: View = lambda _: None,
    open_network: NetworkOpener = open_lan,
) -> None:
    """Be a machine of the cluster until `stop` is set. Raises PieceworkError when it cannot."""
    home = Home(config.home)
    key = home.load_or_create_key()
    async with contextlib.AsyncExitStack() as stack:
        secret = await asyncio.to_thread(derive_secret, config.cluster_name, config.cluster_key)
        network = await open_network(key, config)
        host = OwnLinkHost(network.host)
        stack.push_async_callback(host.close)
        gossip = Gossip(host, key, secret, first_record(config, key.peer_id), tell=tell)
        gossip.start()
        stack.push_async_callback(gossip.close)
        for discovery in network.discoveries:
            await discovery.start(gossip.found, gossip.lost)
            stack.push_async_callback(discovery.close)
        announcing = asyncio.create_task(_announce_addresses(host, network.discoveries))
        stack.callback(announcing.cancel)
        _tell_start(config, host, tell)
        weights = ClusterWeights(config, host, gossip, tell)
        weights.start()
        model = await unless_told(stop, weights.find())
        if model is not None:
            machine = _Machine(config, home, host, gossip, weights, model)
            await machine.run(stop, tell, show, lambda: network_view(network.host))


class _Machine:
    """Everything that runs once the model is known."""

    def __init__(
        self,
        config: UpConfig,
        home: Home,
        host: Host,
        gossip: Gossip,
        weights: ClusterWeights,
        model: LoadedModel,
    ) -> None:
        self._config = config
        self._home = home
        self._host = host
        self._gossip = gossip
        self._weights = weights
        self._model = model
        self._readiness = Readiness()

    async def run(
        self,
        stop: asyncio.Event,
        tell: Callable[[str], None],
        show: View,
        network: Callable[[], dict[str, object]],
    ) -> None:
        """Follow the plan, hold what it says, answer; then leave in an orderly way.

        `network` is what the status page tells of connections and paths.
        """
        manifest = self._model.manifest
        async with contextlib.AsyncExitStack() as stack:
            service = await self._start_head(stack, tell)
            stack.push_async_callback(service.close)
            url = await stack.enter_async_context(self._serve_api(service))
            keeper = SpanKeeper(
                self._host, self._model, self._config, self._gossip,
                lambda span: self._weights.fetch(self._model, span), tell,
            )  # fmt: skip
            stack.push_async_callback(keeper.close)

            def view() -> dict[str, object]:
                return cluster_view(
                    self._gossip, self._config.cluster_name, manifest,
                    answers=len(service.answers), sessions=keeper.sessions,
                ) | {"api_url": f"{url}/v1"}  # fmt: skip

            async def status() -> dict[str, object]:
                return view() | network()

            page = await StatusPage.start(self._home.status_path, status, api_url=f"{url}/v1")
            stack.push_async_callback(page.close)
            tell(f"this machine's API: base URL {url}/v1")
            self._offer_room(tell)
            follower = Follower(
                self._gossip, Agreement(manifest.manifest_hash, manifest.layers), keeper.want
            )
            await until_told(
                stop, follower.run(), keeper.run(), self._show_for_ever(view, show, tell)
            )
            await self._leave(service, tell)

    async def _start_head(
        self, stack: contextlib.AsyncExitStack, tell: Callable[[str], None]
    ) -> HeadService:
        manifest, config = self._model.manifest, self._config
        may_fetch = not config.offline
        drafting = await start_drafting(
            config.draft, self._model, self._home, config.engine, stack, tell, may_fetch=may_fetch
        )
        head = await asyncio.to_thread(
            HeadModel.load, self._model.directory, manifest, None, now_s=int(time.time()),
            drafting=drafting,
        )  # fmt: skip
        router = LanRouter(lambda: announcements(self._gossip.records, manifest))
        return HeadService(
            self._host, router, [head], wire_dtype=self._config.wire_dtype, sealed=False
        )

    def _serve_api(self, service: HeadService) -> contextlib.AbstractAsyncContextManager[str]:
        token = self._home.load_or_create_pairing_token()
        api = create_api(
            service, readiness=self._readiness, settings=ApiSettings(pairing_token=token)
        )
        return serve_api(api, self._config.api_host, self._config.api_port)

    def _offer_room(self, tell: Callable[[str], None]) -> None:
        """Say what this machine could hold: from here on the plan counts with it."""
        config, manifest = self._config, self._model.manifest
        room = room_for(
            self._model, config.memory_bytes, config.engine.compute_dtype, config.kv_tokens
        )
        if room.layers == 0:
            tell(
                f"not one layer of {manifest.name} fits into the memory given: this machine only "
                "asks the others (--memory gives more)"
            )
        self._gossip.update(
            model=manifest.name,
            manifest_hash=manifest.manifest_hash,
            room=room if room.layers else None,
            state=MachineState.WAITING,
            done_percent=0,
        )

    async def _show_for_ever(
        self, view: Callable[[], dict[str, object]], show: View, tell: Callable[[str], None]
    ) -> None:
        was_ready = False
        while True:
            now = view()
            is_ready = bool(now["is_ready"])
            self._readiness.state = ReadyState.READY if is_ready else ReadyState.STARTING
            if is_ready != was_ready:
                missing = ", ".join(now["missing"]) if isinstance(now["missing"], list) else ""
                tell("the model is whole: ask" if is_ready else f"nobody serves layers {missing}")
            was_ready = is_ready
            show(now)
            await asyncio.sleep(SHOW_S)

    async def _leave(self, service: HeadService, tell: Callable[[str], None]) -> None:
        """The others take over while what was begun here ends."""
        self._readiness.state = ReadyState.DRAINING
        self._gossip.update(state=MachineState.LEAVING, room=None)
        if service.answers:
            tell(f"leaving: {len(service.answers)} answers to end")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await service.wait_idle()


async def _announce_addresses(host: Host, discoveries: Sequence[Discovery]) -> None:
    """Now, and whenever this machine's addresses have changed: a cable, another Wi-Fi."""
    announced: list[Address] | None = None
    while True:
        addresses = [a for a in host.addresses if isinstance(a, Address)]
        if addresses != announced:
            announced = addresses
            for discovery in discoveries:
                discovery.update(addresses)
        await asyncio.sleep(ADDRESSES_S)


def _tell_start(config: UpConfig, host: Host, tell: Callable[[str], None]) -> None:
    tell(f"{config.machine_name} ({host.peer_id.short}) in cluster '{config.cluster_name}'")
    if not config.cluster_key:
        tell("no cluster key: any machine of this network that names the cluster may join (--key)")
    if not is_loopback(config.api_host):
        token = Home(config.home).load_or_create_pairing_token()
        tell(f"other machines' clients need this pairing token as their API key: {token}")
