"""The network side that every program of a node shares: one host, reachable from any home."""

from collections.abc import Callable, Sequence

from transport.home_host import HomeHost

from node.config import NetworkOptions
from protocol.identity import KeyPair
from transport.address import TcpAddress, known_addresses
from transport.base import Host

__all__ = ["start_host"]

SETTLE_TIMEOUT_S = 6.0
"""How long a start waits for its relays: one that answers does so within a second or two."""


async def start_host(
    key: KeyPair,
    network: NetworkOptions,
    pool_relays: Sequence[str],
    tell: Callable[[str], None],
) -> Host:
    """A host with its relays, if there are any: the ones named here, or else the pool's.

    A relay that does not answer is told and tried again for as long as the host lives.
    """
    known = known_addresses(network.relays or pool_relays)
    relays = [address for address in known if isinstance(address, TcpAddress)]
    host = await HomeHost.start(
        key,
        listen_host=network.listen_host,
        port=network.listen_port,
        relays=relays,
        maps_port=network.maps_port,
    )
    if relays:
        await host.wait_settled(SETTLE_TIMEOUT_S)
        for status in host.relay_statuses:
            tell(f"relay {status.relay.host}: {status.state} {status.reason}".rstrip())
    return host
