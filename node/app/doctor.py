"""`piecework doctor`: looks at machine and network, and says in a line each what is to be mended.

What disturbs nothing runs side by side; then the bandwidth alone, as a busy processor would spoil
it; then the engines, which keep the processor busy.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.app.checkup import Check, run_checks
from node.app.machine_checks import check_disk, check_engines, check_memory, check_ports
from node.app.network_checks import check_lan, check_market_and_clock, relays_of_market
from node.app.node_check import check_node
from protocol.errors import PieceworkError
from protocol.identity import KeyPair
from transport.address import TcpAddress
from transport.control.host import LibP2pHost
from transport.diagnosis.finding import Finding
from transport.diagnosis.network import NetDiagnosis

__all__ = ["DoctorOptions", "Progress", "examine"]

LOCAL_TIMEOUT_S: Final = 10.0
"""Of what asks only this machine."""

LAN_TIMEOUT_S: Final = 20.0
"""Listening to multicast, and dialling what does not answer."""

NETWORK_TIMEOUT_S: Final = 30.0
"""Relays, NAT, IPv6, the router and the marketplace: their own waits together, and a slow start."""

BANDWIDTH_TIMEOUT_S: Final = 20.0

ENGINE_TIMEOUT_S: Final = 150.0
"""Two backends, each imported from a cold disk."""

Progress = Callable[[Check, list[Finding] | None], None]
"""Called with None when a check begins, and with its findings when it has ended."""


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What the command was told."""

    home: Path
    relays: tuple[TcpAddress, ...]
    """Empty: those that the marketplace names."""
    market_url: str
    peers: tuple[str, ...]
    """HOST:PORT of machines on the LAN."""
    api_port: int
    listen_port: int

    @property
    def is_for_lan(self) -> bool:
        """Nothing beyond the LAN was named, or something on it was."""
        return bool(self.peers) or not (self.relays or self.market_url)


async def examine(options: DoctorOptions, on_progress: Progress) -> list[Finding]:
    """Every finding, in a fixed order."""
    relays = options.relays
    if not relays and options.market_url:
        relays = await relays_of_market(options.market_url)
    async with _control() as control:
        network = NetDiagnosis(control, relays)
        try:
            findings = await _run(_quiet_checks(options, network), on_progress)
            bandwidth = Check("bandwidth", network.measure, BANDWIDTH_TIMEOUT_S)
            findings += await _run([bandwidth], on_progress)
        finally:
            await network.close()
    engines = Check("engine", check_engines, ENGINE_TIMEOUT_S)
    return findings + await _run([engines], on_progress)


def _quiet_checks(options: DoctorOptions, network: NetDiagnosis) -> list[Check]:
    home = options.home

    async def ports() -> list[Finding]:
        return await check_ports(home, options.api_port, options.listen_port)

    async def lan() -> list[Finding]:
        return await check_lan(options.peers, is_wanted=options.is_for_lan)

    async def look() -> list[Finding]:
        findings = await network.look()
        return findings + await check_market_and_clock(options.market_url, network)

    return [
        Check("disk", lambda: check_disk(home), LOCAL_TIMEOUT_S),
        Check("memory", check_memory, LOCAL_TIMEOUT_S),
        Check("ports", ports, LOCAL_TIMEOUT_S),
        Check("node", lambda: check_node(home), LOCAL_TIMEOUT_S),
        Check("LAN", lan, LAN_TIMEOUT_S),
        Check("network", look, NETWORK_TIMEOUT_S),
    ]


async def _run(checks: list[Check], on_progress: Progress) -> list[Finding]:
    for check in checks:
        on_progress(check, None)
    return await run_checks(checks, on_progress)


@contextlib.asynccontextmanager
async def _control() -> AsyncIterator[LibP2pHost]:
    """A throw-away key: the node that may run here keeps its own slots and connections."""
    control = await LibP2pHost.start(KeyPair.generate())
    try:
        yield control
    finally:
        with contextlib.suppress(PieceworkError):
            await control.close()
