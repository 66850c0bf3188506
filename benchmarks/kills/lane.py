"""A lane: one head, a few providers for each span, the wires between, and who is announced.

Lanes share nothing but the zygote and the machine; each runs one case at a time.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from benchmarks.kills.billing import Billing
from benchmarks.kills.cases import Flavour
from benchmarks.kills.channel import Message
from benchmarks.kills.farm import Farm, Process
from benchmarks.kills.growth import Growth
from benchmarks.kills.registry import Registry
from benchmarks.kills.shards import SPANS
from protocol.identity import KeyPair
from transport.address import Address

__all__ = ["HEAD", "Lane", "Slot"]

HEAD: Final = "head"
READY_TIMEOUT_S: Final = 60.0
"""Until enough machines are back; one is away for a few seconds."""
GOSSIP_S: Final = 0.5
ROUTES_REMEMBERED_MAX: Final = 64


@dataclass(slots=True)
class Slot:
    """One machine of the lane: it has a key and an announced address for good, and many lives."""

    name: str
    span: int
    key: KeyPair
    address: str
    process: Process

    @property
    def peer_id(self) -> str:
        return str(self.key.peer_id)


class Lane:
    """Made by `start`; `close` is the farm's business."""

    def __init__(
        self,
        farm: Farm,
        name: str,
        flavour: Flavour,
        *,
        per_span: int,
        notice_s: float,
        drafting: str,
        delay_s: float,
        growth: Growth,
        rng: Random,
    ) -> None:
        self.name = name
        self.flavour = flavour
        self.registry = Registry(notice_s)
        self.billing = Billing()
        self.slots: dict[str, Slot] = {}
        self.answers = 0
        """Over already."""
        self.told: dict[int, asyncio.Future[Message]] = {}
        """By the answer's number: the head's last word."""
        self.reached: dict[int, asyncio.Event] = {}
        self.begun: dict[int, Message] = {}
        self.changed = asyncio.Event()
        """A hop was opened somewhere."""
        self.epochs: dict[str, int] = {}
        self.crashes: list[str] = []
        """Processes that ended though nobody had killed them."""
        self._routes: dict[str, dict[int, tuple[int, str]]] = {}
        self._farm = farm
        self._per_span = per_span
        self._drafting = drafting
        self._delay_s = delay_s
        self._growth = growth
        self._rng = rng
        self._market = KeyPair.generate() if flavour.paid else None
        self._head_key = KeyPair.generate()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Every process of the lane. Raises TimeoutError where one does not start."""
        prefix = self.name
        self.wires = await self._farm.spawn("wires", f"{prefix}.wires", {"delay_s": self._delay_s})
        order = {
            "seed": self._head_key.seed.hex(),
            "market": self._market.seed.hex() if self._market else None,
            "sealed": self.flavour.sealed,
            "drafting": self._drafting,
        }
        self.head = await self._farm.spawn("head", f"{prefix}.head", order, self._from_head)
        hello = await self.head.hello
        await self.wires.ask({"do": "moved", "node": HEAD, "port": hello["port"]})
        for span in range(len(SPANS)):
            for number in range(self._per_span):
                await self._add(f"{prefix}.{span}.{number}", span)

        self.in_background(self._gossip())

    async def ready(self, spare: int) -> None:
        """Until every span has that many machines besides the one that is used."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not all(self._up(span) > spare for span in range(len(SPANS))):
                await asyncio.sleep(0.02)

    def announce(self) -> None:
        """Tell the head who serves, as far as anybody can know."""
        names = self.registry.announced(time.monotonic(), self._rng)
        slots = [self.slots[name] for name in names]
        offers = [(slot.peer_id, slot.address, slot.span) for slot in slots]
        self.head.tell({"do": "announce", "offers": offers})

    def ask_answer(self, number: int, message: Message) -> None:
        self.told[number] = asyncio.get_running_loop().create_future()
        self.reached[number] = asyncio.Event()
        self.head.tell({"do": "answer", "answer": number} | message)

    def route(self, session: str) -> dict[int, str]:
        """Who serves each hop now, by the newest epoch in which it was opened."""
        return {hop: name for hop, (_, name) in sorted(self._routes.get(session, {}).items())}

    def take_away(self, slot: Slot) -> None:
        """It is gone, or seems so; word of that spreads slowly."""
        self.registry.down(slot.name, time.monotonic())

    def bring_back(self, slot: Slot, after_s: float) -> None:
        """Start its next life a little later."""
        self.in_background(self._revive(slot, after_s))

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def sample(self) -> None:
        """What every living process weighs now; one that dies meanwhile is left out."""
        head = await self.head.ask({"do": "statistics"})
        self._growth.add(f"head {self.name}", self.answers, head)
        for slot in self.slots.values():
            if self.registry.is_up(slot.name) and (found := await self.statistics(slot)):
                life = f"provider {slot.name} {slot.process.life}"
                self._growth.add(life, self.answers, found)

    async def statistics(self, slot: Slot) -> Message | None:
        with contextlib.suppress(TimeoutError, ConnectionError):
            return await slot.process.ask({"do": "statistics"})
        return None

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _gossip(self) -> None:
        """A machine that is back is heard of soon, also by an answer that waits for one."""
        while True:
            await asyncio.sleep(GOSSIP_S)
            self.announce()

    def _up(self, span: int) -> int:
        return sum(s.span == span and self.registry.is_up(s.name) for s in self.slots.values())

    async def _add(self, name: str, span: int) -> None:
        key = KeyPair.generate()
        port = (await self.wires.ask({"do": "add", "node": name}))["port"]
        address = str(Address("127.0.0.1", port, key.peer_id))
        process = await self._spawn(name, span, key)
        self.slots[name] = Slot(name, span, key, address, process)
        self.registry.up(name)

    async def _revive(self, slot: Slot, after_s: float) -> None:
        await asyncio.sleep(after_s)
        slot.process = await self._spawn(slot.name, slot.span, slot.key)
        self.registry.up(slot.name)

    async def _spawn(self, name: str, span: int, key: KeyPair) -> Process:
        order = {
            "span": span,
            "seed": key.seed.hex(),
            "head": str(self._head_key.peer_id),
            "market": str(self._market.peer_id) if self._market else None,
            "receipts": str(self._farm.directory / f"{name}.receipts"),
        }
        peer = str(key.peer_id)
        process = await self._farm.spawn(
            "provider", name, order, lambda message: self._from_provider(name, peer, message)
        )
        hello = await process.hello
        await self.wires.ask({"do": "moved", "node": name, "port": hello["port"]})
        self.in_background(self._watch(name, process))
        return process

    async def _watch(self, name: str, process: Process) -> None:
        await process.gone.wait()
        if not process.is_killed:
            self.crashes.append(f"{name}, life {process.life}")
            self.take_away(self.slots[name])
            self.bring_back(self.slots[name], 0.0)

    def _from_head(self, message: Message) -> None:
        match message:
            case {"leased": _}:
                self.billing.leased(message)
            case {"begun": number}:
                self.begun[number] = message
                self.changed.set()
            case {"reached": number} if number in self.reached:
                self.reached[number].set()
            case {"done": number} if number in self.told:
                self.answers += 1
                if not self.told[number].done():
                    self.told[number].set_result(message)

    def _from_provider(self, name: str, peer: str, message: Message) -> None:
        match message:
            case {"receipts": receipts}:
                for encoded in receipts:
                    self.billing.receipt(peer, bytes.fromhex(encoded))
            case {"replayed": session, "rows": rows}:
                self.billing.replayed(peer, session, rows)
            case {"opened": session, "epoch": epoch, "hop": hop, "standby": False}:
                self.epochs[session] = max(epoch, self.epochs.get(session, 0))
                route = self._routes.setdefault(session, {})
                if epoch >= route.get(hop, (0, ""))[0]:
                    route[hop] = epoch, name
                self._forget(self._routes)
                self.changed.set()

    @staticmethod
    def _forget(routes: dict[str, dict[int, tuple[int, str]]]) -> None:
        while len(routes) > ROUTES_REMEMBERED_MAX:
            del routes[next(iter(routes))]
