"""What each kind of fault does to a lane, and what is undone afterwards."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from benchmarks.kills.cases import HOPS, Case, Kind
from benchmarks.kills.lane import HEAD, Lane, Slot

__all__ = ["Fault"]

REPAIR_SEEN_TIMEOUT_S: Final = 5.0
"""AGAIN: without a sign of a repair by then the second kill falls anyway."""


class Fault:
    """One case's fault, at one session. `strike` once; `over` when its answer has ended."""

    def __init__(self, lane: Lane, case: Case, session: str) -> None:
        self._lane = lane
        self._case = case
        self._session = session
        self._cut: tuple[str, str | None] | None = None
        self.struck: list[str] = []
        """What was done to whom, for whoever reads of a failure."""
        self.at_s: float | None = None

    async def strike(self) -> None:
        """Raises nothing for a machine that has just gone by itself: that is noted."""
        kinds: dict[Kind, Callable[[], Awaitable[None]]] = {
            Kind.NONE: self._nothing, Kind.KILL: self._kill_hop, Kind.STOP: self._stop,
            Kind.LINK: self._link, Kind.ISLAND: self._island, Kind.REBIND: self._rebind,
            Kind.NONSENSE: self._nonsense, Kind.ENGINE: self._engine, Kind.TWO: self._two,
            Kind.AGAIN: self._again,
        }  # fmt: skip
        self.at_s = time.monotonic()
        await kinds[self._case.kind]()

    async def over(self) -> None:
        """A link that is still cut carries again: the next case is to begin on whole ones."""
        if self._cut is not None:
            (first, second), self._cut = self._cut, None
            await self._lane.wires.ask(
                {"do": "cut", "first": first, "second": second, "heals": True}
            )

    async def _nothing(self) -> None:
        self.at_s = None

    async def _kill_hop(self) -> None:
        self._kill(self._hop(self._case.hop))

    async def _two(self) -> None:
        victims = self._hop(self._case.hop), self._hop(self._case.other_hop)
        for slot in victims:
            self._kill(slot)

    async def _again(self) -> None:
        first = self._hop(self._case.hop)
        before = self._lane.epochs.get(self._session, 0)
        self._kill(first)
        try:
            async with asyncio.timeout(REPAIR_SEEN_TIMEOUT_S):
                while self._lane.epochs.get(self._session, 0) == before:
                    self._lane.changed.clear()
                    await self._lane.changed.wait()
        except TimeoutError:
            self.struck.append("no repair was seen")
        await asyncio.sleep(self._case.again_s)
        replacement = self._hop(self._case.hop)
        if self._case.dies and replacement is not None and replacement is not first:
            self._kill(replacement)
        else:
            self._kill(self._hop(self._case.other_hop))

    async def _stop(self) -> None:
        slot = self._hop(self._case.hop)
        if slot is None:
            return
        self.struck.append(f"SIGSTOP {slot.name}")
        slot.process.stop()
        self._lane.take_away(slot)
        self._lane.in_background(self._end_stop(slot))

    async def _end_stop(self, slot: Slot) -> None:
        await asyncio.sleep(self._case.hold_s)
        if self._case.dies:
            slot.process.kill()
            self._lane.bring_back(slot, 0.0)
        else:
            slot.process.wake()
            self._lane.registry.up(slot.name)

    async def _link(self) -> None:
        names = [self._name(hop) for hop in (self._case.link - 1, self._case.link)]
        if names[0] is None or names[1] is None:
            return
        self.struck.append(f"link {names[0]} - {names[1]} for {self._case.hold_s} s")
        await self._cut_for(names[0], names[1])

    async def _island(self) -> None:
        slot = self._hop(self._case.hop)
        if slot is None:
            return
        self.struck.append(f"all links of {slot.name} for {self._case.hold_s} s")
        self._lane.take_away(slot)
        await self._cut_for(slot.name, None)
        self._lane.in_background(self._back_on_land(slot))

    async def _back_on_land(self, slot: Slot) -> None:
        while self._cut is not None:
            await asyncio.sleep(0.02)
        self._lane.registry.up(slot.name)

    async def _rebind(self) -> None:
        slot = self._hop(self._case.hop)
        if slot is not None:
            self.struck.append(f"new NAT ports for {slot.name}")
            await self._lane.wires.ask({"do": "rebind", "node": slot.name})

    async def _nonsense(self) -> None:
        case, slot = self._case, self._hop(self._case.hop)
        if slot is None:
            return
        where = "to the head" if case.to_head else "onward"
        self.struck.append(f"{slot.name} sends nonsense {where}: {case.nonsense}")
        done = await slot.process.ask(
            {
                "do": "misbehave", "session": self._session, "how": case.nonsense,
                "to_head": case.to_head, "seed": case.index,
            }
        )  # fmt: skip
        if not done["done"]:
            self.struck.append("it had no stream to send it on")

    async def _engine(self) -> None:
        slot = self._hop(self._case.hop)
        if slot is not None:
            self.struck.append(f"engine of {slot.name}")
            await slot.process.ask({"do": "lose_engine"})

    async def _cut_for(self, first: str, second: str | None) -> None:
        self._cut = first, second
        await self._lane.wires.ask({"do": "cut", "first": first, "second": second, "heals": False})
        self._lane.in_background(self._heal_later())

    async def _heal_later(self) -> None:
        await asyncio.sleep(self._case.hold_s)
        await self.over()

    def _kill(self, slot: Slot | None) -> None:
        if slot is None or not self._lane.registry.is_up(slot.name):
            self.struck.append("nobody to kill")
            return
        self.struck.append(f"SIGKILL {slot.name}")
        slot.process.kill()
        self._lane.take_away(slot)
        self._lane.bring_back(slot, self._case.hold_s)

    def _hop(self, hop: int) -> Slot | None:
        """Who serves that hop of the session now."""
        name = self._lane.route(self._session).get(hop)
        if name is None:
            self.struck.append(f"hop {hop} is nobody's yet")
            return None
        return self._lane.slots[name]

    def _name(self, hop: int) -> str | None:
        if hop in (-1, HOPS):
            return HEAD
        slot = self._hop(hop)
        return slot.name if slot else None
