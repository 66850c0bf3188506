"""The network side that every program of a node shares: one host, reachable from any home."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from node.config import NetworkOptions
from protocol.identity import KeyPair
from transport.address import TcpAddress, known_addresses
from transport.base import Host, PathKind
from transport.congestion.share import UploadShare
from transport.home_host import HomeHost
from transport.quic.settings import QuicSettings

__all__ = ["network_view", "start_host", "traffic_bytes"]

SETTLE_TIMEOUT_S: Final = 6.0
"""How long a start waits for its relays: one that answers does so within a second or two."""


async def start_host(
    key: KeyPair,
    network: NetworkOptions,
    pool_relays: Sequence[str],
    tell: Callable[[str], None],
    *,
    upload: UploadShare | None = None,
) -> Host:
    """A host with its relays, if there are any: the ones named here, or else the pool's.

    `upload`: what its connections may send together. A relay that does not answer is told and
    tried again for as long as the host lives.
    """
    known = known_addresses(network.relays or pool_relays)
    relays = [address for address in known if isinstance(address, TcpAddress)]
    host = await HomeHost.start(
        key,
        listen_host=network.listen_host,
        port=network.listen_port,
        relays=relays,
        maps_port=network.maps_port,
        settings=QuicSettings(upload=upload),
    )
    try:
        if relays:
            await host.wait_settled(SETTLE_TIMEOUT_S)
    except BaseException:
        await host.close()
        raise
    for status in host.relay_statuses:
        tell(f"relay {status.relay.host}: {status.state} {status.reason}".rstrip())
    return host


def traffic_bytes(host: Host) -> int:
    """Sent and received by the data socket since it was opened; 0 for a host of another make."""
    if not isinstance(host, HomeHost):
        return 0
    udp = host.quic.endpoint.statistics().udp
    return udp.bytes_sent + udp.bytes_received


def network_view(host: Host) -> dict[str, Any]:
    """For a status page: `network`, and `paths` with a row for every path that was tried, and for
    the last hole punching where a connection is still relayed.

    Empty for a host of another make.
    """
    if not isinstance(host, HomeHost):
        return {}
    network = host.network_status()
    peers = [*network["connections"], *network["reaching"]]
    paths = [{"peer_id": peer["peer_id"], **path} for peer in peers for path in peer["paths"]]
    paths += [
        {
            "peer_id": c["peer_id"],
            "kind": "punched",
            "is_current": False,
            "reason": c["punches"][-1],
        }
        for c in network["connections"]
        if c["path_kind"] == PathKind.RELAYED and c["punches"]
    ]
    return {"network": network, "paths": paths}
