"""One provider of a bed, in a process of its own: data socket, engine, server, as in any node.

Its one argument is JSON: {peer, hops, engine}. It says `ready` on stdout, answers every line on
stdin with a line of JSON about itself, and ends with stdin.
"""

import asyncio
import json
import sys
from time import process_time
from typing import Any

import uvloop

from benchmarks.wan.engines import EngineChoice
from benchmarks.wan.namespace import PORT, home_of
from benchmarks.wan.peers import HEAD, key_of, span_of
from benchmarks.wan.roofline import RooflineEngine
from node.engine.runner import EngineRunner
from node.serve.admission import OwnAdmission, ServedShard
from node.serve.server import SessionServer
from transport.quic.host import QuicHost

__all__ = ["main"]


async def serve(peer: int, hops: int, choice: EngineChoice) -> None:
    """Until stdin ends."""
    manifest = choice.manifest
    span = span_of(peer, hops, manifest.layers)
    engine = await choice.start(
        span, embeds=span.start == 0, has_head=span.end == manifest.layers, ends=False
    )
    runner = EngineRunner(engine)
    host = await QuicHost.start(key_of(peer), listen_host=home_of(peer), port=PORT)
    shard = ServedShard(
        host.peer_id, manifest.manifest_hash, span.start, span.end, manifest.hidden_size
    )
    admission = OwnAdmission(shard, [key_of(HEAD).peer_id])
    SessionServer(host, runner, admission, collector=None, backend="bench").start()
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(json.dumps(report(host, engine)), flush=True)
    await host.close()
    await runner.stop()


def report(host: QuicHost, engine: object) -> dict[str, Any]:
    """Since the last report: how late the engine's waits ended; in all: CPU and datagrams."""
    late_s: list[float] = []
    if isinstance(engine, RooflineEngine):
        late_s, engine.late_s = engine.late_s, []
    udp = host.statistics().udp
    return {
        "cpu_s": process_time(),
        "late_s": late_s,
        "datagrams_sent": udp.datagrams_sent,
        "remotes": sorted({connection.remote for connection in host.connections()}),
    }


def main(argument: str) -> None:
    fields = json.loads(argument)
    choice = EngineChoice.from_json(fields["engine"])
    uvloop.run(serve(fields["peer"], fields["hops"], choice))


if __name__ == "__main__":
    main(sys.argv[1])
