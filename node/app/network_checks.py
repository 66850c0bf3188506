"""What `doctor` asks the network, put together: the LAN, the marketplace, and through relays."""

import dataclasses
from collections.abc import Sequence

from node.app.clock_check import clock_finding, read_market_clock, relay_clocks, system_synchronizes
from node.errors import NodeError
from node.market_client import MarketClient
from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from transport.address import TcpAddress, known_addresses
from transport.diagnosis.finding import Finding, Level
from transport.diagnosis.lan_diagnosis import diagnose_lan
from transport.diagnosis.network import NetDiagnosis
from transport.quic.host import QuicHost

__all__ = ["check_lan", "check_market_and_clock", "relays_of_market", "soften"]


async def check_lan(peers: Sequence[str], *, is_wanted: bool) -> list[Finding]:
    """Discovery, and with `peers` (HOST:PORT) whether they answer.

    A LAN that does not work is grave only for a machine that shall work with its neighbours.
    """
    if not peers:
        findings = await diagnose_lan()
    else:
        host = await QuicHost.start(KeyPair.generate(), listen_host="0.0.0.0")
        try:
            findings = await diagnose_lan(host, peers)
        finally:
            await host.close()
    return findings if is_wanted else soften(findings)


def soften(findings: Sequence[Finding]) -> list[Finding]:
    """One level down each: what would be grave elsewhere is worth a word here."""
    softer = []
    for finding in findings:
        if finding.level is Level.FAIL:
            softer.append(dataclasses.replace(finding, level=Level.WARN))
        else:
            softer.append(dataclasses.replace(finding, level=Level.OK, fix=""))
    return softer


async def relays_of_market(url: str) -> tuple[TcpAddress, ...]:
    """Those the marketplace names; none if it does not answer, which another finding says."""
    try:
        async with MarketClient(url, KeyPair.generate()) as client:
            terms = await client.terms()
    except (NodeError, RemoteProtocolError, KeyError, ValueError):
        return ()
    return tuple(each for each in known_addresses(terms.relays) if isinstance(each, TcpAddress))


async def check_market_and_clock(url: str, network: NetDiagnosis) -> list[Finding]:
    """After the network was looked at: relays tell the time as well. `url` may be empty."""
    readings, findings = relay_clocks(network.reports), []
    if url:
        market = await read_market_clock(url)
        readings += [market] if market else []
        findings.append(_market(url, answers=market is not None))
    return [*findings, clock_finding(readings, system_synchronizes())]


def _market(url: str, *, answers: bool) -> Finding:
    if answers:
        return Finding("market", Level.OK, f"The marketplace at {url} answers.")
    fix = "Check the address, and whether a browser on this machine can open it."
    return Finding("market", Level.FAIL, f"The marketplace at {url} does not answer.", fix)
