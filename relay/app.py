"""The composition root: builds every part of a relay, and takes them down in order.

key → control plane (TCP) → forwarder and reflector (UDP) → services on streams → status page
"""

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from protocol.identity import KeyPair
from protocol.relay_messages import (
    FORWARD_PROTOCOL,
    WHERE_PROTOCOL,
)
from protocol.rendezvous_messages import (
    RENDEZVOUS_PROTOCOL,
)
from relay.carrying import Carrier
from relay.circuits import CircuitService
from relay.config import STATUS_FILE, RelayConfig, load_key
from relay.datagrams import RelayDatagrams
from relay.errors import ConfigInvalid
from relay.forwarding import ForwardingService
from relay.rendezvous import RendezvousService
from relay.requests import RequestGate
from relay.running import Relay, announced
from relay.serving import serve_page
from relay.status import create_status_app
from relay.where import WhereService
from transport.control.base import ControlHost
from transport.control.circuit_messages import HOP_PROTOCOL
from transport.control.host import LibP2pHost
from transport.control.multiaddr_bytes import encode_listen
from transport.control.settings import ControlSettings
from transport.errors import TransportError

__all__ = ["run_relay", "start_relay"]

log = logging.getLogger(__name__)

REQUESTS_MAX: Final = 4096
"""Streams that ask for something, beside those that hold a circuit."""
FILES_BESIDE: Final = 128
"""Open files that are no connections of peers: UDP sockets, the page, Python's own."""


@contextlib.asynccontextmanager
async def start_relay(config: RelayConfig) -> AsyncIterator[Relay]:
    """A relay that serves for as long as the block runs; on leaving, everything is closed.

    Raises ConfigInvalid where the key, or a port, cannot be used.
    """
    key, resources = load_key(config.home), config.resources
    _allow_files(resources.circuits.connections_max + FILES_BESIDE)
    async with contextlib.AsyncExitStack() as stack:
        control = await _open_control(config, key)
        stack.push_async_callback(control.close)
        datagrams = _open_datagrams(config)
        stack.callback(datagrams.close)
        gate = RequestGate(resources.circuits)
        carrier = Carrier(resources.circuits, resources.forwarder)
        relay = Relay(
            config=config,
            control=control,
            datagrams=datagrams,
            gate=gate,
            carrier=carrier,
            circuits=CircuitService(
                control, resources.circuits, gate, carrier, datagrams.forwarder.usage,
                lambda: tuple(map(encode_listen, announced(config, control))),
            ),
            forwarding=ForwardingService(
                datagrams.forwarder, gate, (resources.circuits, resources.forwarder),
                host=config.announce_host, ports=datagrams.ports,
            ),
            rendezvous=RendezvousService(resources.rendezvous, gate),
            started_at=time.monotonic(),
        )  # fmt: skip
        stack.push_async_callback(relay.circuits.close)
        stack.callback(relay.forwarding.close)
        datagrams.start()
        control.set_handler(HOP_PROTOCOL, relay.circuits.serve)
        control.set_handler(FORWARD_PROTOCOL, relay.forwarding.serve)
        where = WhereService(gate, host=config.announce_host, ports=datagrams.ports)
        control.set_handler(WHERE_PROTOCOL, where.serve)
        control.set_handler(RENDEZVOUS_PROTOCOL, relay.rendezvous.serve)
        sweeping = asyncio.create_task(relay.sweep())
        try:
            yield relay
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)


def run_relay(
    config: RelayConfig, *, on_started: Callable[[tuple[str, ...], str, RelayConfig], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain; a second signal leaves at once."""
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_serve(config, on_started))


async def _serve(
    config: RelayConfig, on_started: Callable[[tuple[str, ...], str, RelayConfig], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _on_signal, stop, number)
    async with start_relay(config) as relay:
        page = create_status_app(lambda: relay.identity, config.resources, relay.counts)
        async with serve_page(page, config.status_host, config.status_port) as url:
            pointer = config.home / STATUS_FILE
            pointer.write_text(json.dumps({"status_url": url}))
            try:
                on_started(relay.identity.addresses, url, config)
                await stop.wait()
                log.info("draining for up to %g s", config.drain_s)
                await relay.drain()
            finally:
                pointer.unlink(missing_ok=True)


async def _open_control(config: RelayConfig, key: KeyPair) -> ControlHost:
    """Raises ConfigInvalid."""
    limits, circuits = config.circuits, config.forwarder.circuits_max
    settings = ControlSettings(
        connections_max=limits.connections_max,
        streams_max=limits.streams_per_peer_max,
        handlers_max=limits.circuits_max + circuits + REQUESTS_MAX,
    )
    try:
        return await LibP2pHost.start(key, listen=((config.host, config.port),), settings=settings)
    except TransportError as error:
        raise ConfigInvalid(
            f"The control plane cannot listen: {error.message}", hint="Choose another --port."
        ) from None


def _open_datagrams(config: RelayConfig) -> RelayDatagrams:
    """Raises ConfigInvalid."""
    ports = (config.udp_port, config.other_udp_port)
    try:
        return RelayDatagrams.open(config.host, ports, config.resources)
    except OSError as error:
        raise ConfigInvalid(
            f"The UDP ports {ports[0]} and {ports[1]} cannot be used at {config.host}:"
            f" {error.strerror}.",
            hint="Choose others with --udp-port and --other-udp-port.",
        ) from None


def _allow_files(wanted: int) -> None:
    """Each connection is an open file, and the usual allowance is 1024 of them."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning(
            "The system allows %d open files, so fewer than circuits.connections_max can connect.",
            hard,
        )
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _on_signal(stop: asyncio.Event, number: signal.Signals) -> None:
    if stop.is_set():
        sys.exit(128 + number)
    stop.set()


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
