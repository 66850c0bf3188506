"""The head: a process of its own, which outlives every kill. Answers are asked for by messages."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.kills.cases import MANNERS, QUESTIONS
from benchmarks.kills.channel import Channel, Message, connect
from benchmarks.kills.leases import LeaseRouter
from benchmarks.kills.processes import vitals
from benchmarks.kills.reference import digest
from benchmarks.kills.shards import ENDS, KV_TOKENS, SPANS, WHOLE, Shards
from benchmarks.kills.threaded import ThreadedEngine
from benchmarks.kills.watching import WatchedHost
from node.engine.runner import EngineRunner
from node.head.answer import AnswerRequest
from node.head.drafting.kit import NO_DRAFTING, DraftingKit
from node.head.models import HeadModel
from node.head.service import HeadService
from node.router.lan import LanRouter
from protocol.announcement import Announcement
from protocol.errors import PieceworkError
from protocol.identity import KeyPair, PeerId
from protocol.lease import Lease
from protocol.tensor import WireDtype
from transport.home_host import HomeHost

__all__ = ["run"]

ANNOUNCED_FOR_S: Final = 24 * 3600
ACLOSE_TIMEOUT_S: Final = 20.0


def _drafting(how: str, shards: Shards) -> DraftingKit:
    match how:
        case "off":
            return NO_DRAFTING
        case "model":  # the very model that answers: its greedy drafts are nearly all accepted
            return DraftingKit(model=EngineRunner(ThreadedEngine(lambda: shards.engine(WHOLE))))
    return DraftingKit()


class _Head:
    def __init__(self, order: Message, channel: Channel, shards: Shards, host: WatchedHost) -> None:
        self._channel = channel
        self._shards = shards
        self.host = host
        self.announcements: list[Announcement] = []
        router: LanRouter = LanRouter(lambda: self.announcements)
        if order["market"]:
            market = KeyPair(bytes.fromhex(order["market"]))
            router = LeaseRouter(lambda: self.announcements, market, host.peer_id, self._leased)
        ends = (
            EngineRunner(ThreadedEngine(lambda: shards.engine(ENDS))) if order["sealed"] else None
        )
        self.model = HeadModel.load(
            shards.directory, shards.manifest, ends, now_s=0,
            drafting=_drafting(order["drafting"], shards),
        )  # fmt: skip
        self.service = HeadService(
            host,
            router,
            [self.model],
            wire_dtype=WireDtype.FP32,
            sealed=order["sealed"],
        )
        self._running: dict[int, asyncio.Task[None]] = {}

    def announce(self, offers: Sequence[tuple[str, str, int]]) -> None:
        """Who is said to serve now: (peer, address, index of the span)."""
        manifest, now_s = self._shards.manifest, int(time.time())
        self.announcements = [
            Announcement(
                PeerId.from_text(peer), (address,), manifest.name, manifest.manifest_hash,
                manifest.layers, SPANS[span], SPANS[span].start == 0,
                SPANS[span].end == WHOLE.end, "torch", KV_TOKENS, now_s, now_s + ANNOUNCED_FOR_S,
            )
            for peer, address, span in offers
        ]  # fmt: skip

    def begin(self, message: Message) -> None:
        task = asyncio.create_task(self._answer(message))
        self._running[message["answer"]] = task
        task.add_done_callback(lambda _: self._running.pop(message["answer"], None))

    def cancel(self, number: int) -> None:
        if (task := self._running.get(number)) is not None:
            task.cancel()

    async def _answer(self, message: Message) -> None:
        """Run one answer; what came of it is told as one message, whatever that is."""
        request = AnswerRequest(
            model=self.model.manifest.name,
            messages=[{"role": "user", "content": QUESTIONS[message["question"]]}],
            sampling=MANNERS[message["manner"]],
            max_tokens=message["max_tokens"],
            api_key=message["tenant"],
        )
        told: Message = {"done": message["answer"], "error": None, "session": None, "prompt": 0}
        pieces: list[tuple[str, int]] = []
        times_s, count = [time.monotonic()], 0
        answer = None
        try:
            answer = await self.service.answer(request)
            told |= {"session": answer.session_id, "prompt": answer.prompt_tokens}
            told |= {"cached": answer.cached_tokens, "hops": [hop.peer_id for hop in answer.hops]}
            times_s.append(time.monotonic())
            self._channel.send({"begun": message["answer"]} | told)
            async for delta in answer:
                pieces.append((delta.text, delta.tokens))
                times_s += [time.monotonic()] * delta.tokens
                if count < message["watch"] <= count + delta.tokens:
                    self._channel.send({"reached": message["answer"]})
                count += delta.tokens
        except PieceworkError as error:
            told["error"] = f"{type(error).__name__}: {error}"
        except asyncio.CancelledError:
            told["error"] = "hung: the harness gave up waiting"
        except Exception as error:  # a bug of the head's is a finding, not the harness's end
            told["error"] = f"BUG {type(error).__name__}: {error}"
        if answer is not None:
            try:
                await asyncio.wait_for(answer.aclose(), ACLOSE_TIMEOUT_S)
            except Exception as error:
                told["error"] = told["error"] or f"aclose: {type(error).__name__}: {error}"
            told["finish"] = answer.finish_reason
            told["rows"] = self.host.result_rows.pop(answer.session_id, 0)
        told |= {"digest": digest(pieces), "tokens": count, "times_s": times_s}
        self._channel.send(told)

    def _leased(self, lease: Lease) -> None:
        self._channel.send(
            {
                "leased": lease.lease_id.hex(),
                "session": lease.session_id.hex(),
                "hop": lease.hop_index,
                "provider": str(lease.provider),
            }
        )


async def run(order: Message, control: Path, shards: Shards) -> None:
    """Answer until the harness ends."""
    channel = await connect(control)
    inner = await HomeHost.start(
        KeyPair(bytes.fromhex(order["seed"])), listen_host="127.0.0.1", fast_lan=False
    )
    head = _Head(order, channel, shards, WatchedHost(inner))
    channel.send({"hello": order["name"], "life": order["life"], "port": inner.quic.port})
    async for message in channel.messages():
        answer: Message = {}
        match message["do"]:
            case "announce":
                head.announce(message["offers"])
            case "answer":
                head.begin(message)
            case "cancel":
                head.cancel(message["answer"])
            case "statistics":
                answer = vitals() | {"connections": len(inner.connections())}
        if "number" in message:
            channel.send({"answer_to": message["number"]} | answer)
