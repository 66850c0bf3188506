"""A program for the laboratory: announces itself by mDNS and prints whom it finds and loses.

python mdns_node.py CLUSTER TTL_S ADDRESS PORT      closes at the end of its stdin
"""

import asyncio
import sys

import uvloop

from protocol.identity import KeyPair
from transport.address import Address
from transport.lan.mdns import MdnsDiscovery


def say(*words: object) -> None:
    print(*words, flush=True)


async def main(cluster: str, ttl_s: str, host: str, port: str) -> None:
    peer_id = KeyPair.generate().peer_id
    discovery = MdnsDiscovery(peer_id, cluster, ttl_s=int(ttl_s), check_s=0.5)
    await discovery.start(
        lambda sighting: say("found", sighting.peer_id, *(a.host for a in sighting.addresses)),
        lambda lost: say("lost", lost),
    )
    discovery.update((Address(host, int(port), peer_id),))
    say("me", peer_id)
    await asyncio.to_thread(sys.stdin.read)
    say("statistics", discovery.statistics())
    await discovery.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
