"""One provider: a process of its own, so that a signal really ends or stops it."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.kills.channel import Channel, Message, connect
from benchmarks.kills.processes import vitals
from benchmarks.kills.shards import SPANS, Shards
from benchmarks.kills.threaded import ThreadedEngine
from benchmarks.kills.watching import SESSIONS_REMEMBERED_MAX, WatchedHost, forged_result
from node.engine.restarts import RestartLimits
from node.engine.runner import EngineRunner
from node.serve.admission import Admission, LeaseAdmission, OwnAdmission, ServedShard
from node.serve.collector import Collector
from node.serve.receipt_log import ReceiptLog
from node.serve.server import SessionServer
from protocol.errors import EngineError
from protocol.frame import Open
from protocol.identity import KeyPair, PeerId
from transport.errors import TransportError
from transport.home_host import HomeHost

__all__ = ["run"]


class _Sink:
    """The marketplace's place: receipts go to the harness, which counts them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def hand_in(self, batch: Sequence[bytes]) -> Sequence[str]:
        self._channel.send({"receipts": [cosigned.hex() for cosigned in batch]})
        return ["accepted"] * len(batch)


class _Provider:
    def __init__(self, order: Message, channel: Channel, shards: Shards, host: WatchedHost) -> None:
        self.channel = channel
        self.host = host
        self.host.on_open = self._opened
        self._epochs: dict[bytes, tuple[int, bool]] = {}
        span = SPANS[order["span"]]
        self.engine = ThreadedEngine(lambda: shards.engine(span))
        # engines are lost here by the hundred, which no machine's would be
        limits = RestartLimits(count_max=10_000, delay_s=0.0)
        self.runner = EngineRunner(self.engine, restart_limits=limits)
        manifest = shards.manifest
        shard = ServedShard(
            host.peer_id, manifest.manifest_hash, span.start, span.end, manifest.hidden_size
        )
        collector = None
        admission: Admission = OwnAdmission(shard, [PeerId.from_text(order["head"])])
        if order["market"]:
            host.on_replay = self._replayed
            log = ReceiptLog(Path(order["receipts"]))
            collector = Collector(KeyPair(bytes.fromhex(order["seed"])), log, _Sink(channel))
            collector.start()
            admission = LeaseAdmission(shard, PeerId.from_text(order["market"]))
        self.server = SessionServer(
            host, self.runner, admission, collector=collector, backend="torch"
        )
        self.server.start()

    def _opened(self, frame: Open) -> None:
        last = frame.hop_index == frame.hop_count - 1
        self._epochs.pop(frame.session_id, None)
        self._epochs[frame.session_id] = frame.epoch, last
        while len(self._epochs) > SESSIONS_REMEMBERED_MAX:
            del self._epochs[next(iter(self._epochs))]
        self.channel.send(
            {
                "opened": frame.session_id.hex(),
                "epoch": frame.epoch,
                "hop": frame.hop_index,
                "standby": frame.standby,
            }
        )

    def _replayed(self, session: str, rows: int) -> None:
        """At once: a signal may come with the next instruction."""
        self.channel.send({"replayed": session, "rows": rows})

    async def misbehave(self, message: Message) -> Message:
        session_id = bytes.fromhex(message["session"])
        epoch, last = self._epochs.get(session_id, (0, False))
        to_head = message["to_head"] or last
        stream = self.host.line(session_id, to_head=to_head)
        if stream is None:
            return {"done": False}
        forged = forged_result(session_id, epoch) if to_head and not last else None
        try:
            await stream.misbehave(message["how"], message["seed"], forged)
        except TransportError:
            return {"done": False}
        return {"done": True}

    async def statistics(self) -> Message:
        try:
            found = await self.runner.statistics()
        except EngineError as error:  # it is being started again
            return vitals() | {"error": str(error)}
        return vitals() | {
            "sequences": found.engine.sequences,
            "kv_tokens": found.engine.kv_tokens_reserved,
            "queued": found.queued_items,
            "sessions": self.server.sessions,
            "connections": len(self.host.connections()),
        }


async def run(order: Message, control: Path, shards: Shards) -> None:
    """Serve until the harness ends, or until a signal does."""
    channel = await connect(control)
    key = KeyPair(bytes.fromhex(order["seed"]))
    inner = await HomeHost.start(key, listen_host="127.0.0.1", fast_lan=False)
    provider = _Provider(order, channel, shards, WatchedHost(inner))
    channel.send({"hello": order["name"], "life": order["life"], "port": inner.quic.port})
    async for message in channel.messages():
        answer: Message = {}
        match message["do"]:
            case "misbehave":
                answer = await provider.misbehave(message)
            case "statistics":
                answer = await provider.statistics()
            case "lose_engine":
                provider.engine.die()
            case "leave":
                os._exit(0)
        channel.send({"answer_to": message["number"]} | answer)
    await asyncio.sleep(0)
