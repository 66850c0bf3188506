"""A head that speaks frame by frame, so that a test says exactly what hops are sent."""

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import replace

import numpy as np

from node.engine.base import ComputeDtype, Output, ShardSpec, StepItem
from node.engine.fake import load
from node.engine.wire import from_payload
from protocol.frame import (
    PROTOCOL,
    Attach,
    Close,
    ErrorFrame,
    Frame,
    LinkRole,
    Meter,
    Open,
    Opened,
    Probe,
    Progress,
    Replay,
    Result,
    Step,
    StepKind,
    Truncate,
    decode_frame,
    encode_frame,
)
from protocol.identity import KeyPair
from protocol.route import Span
from protocol.tensor import payload_hash
from tests.node.serve.rig import CAPACITY, GREEDY, HIDDEN, MODEL, PROMPT, WAIT_S, Provider, Rig
from transport.base import Stream
from transport.errors import TransportError


class Line:
    """The head's stream to one hop, and all that has come on it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.frames: dict[type, list] = defaultdict(list)
        self.is_over = False
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def send(self, frame: Frame) -> None:
        await self.stream.send(*encode_frame(frame))

    def count(self, kind: type) -> int:
        return len(self.frames[kind])

    async def wait(self, kind: type, count: int = 1, *, timeout_s: float = WAIT_S):
        """The `count`-th frame of that kind."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.frames[kind]) < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} {count}: {dict(self.frames)}") from None
        return self.frames[kind][count - 1]

    async def wait_over(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait([self._reader])

    async def _read(self) -> None:
        with contextlib.suppress(TransportError):
            while (data := await self.stream.receive()) is not None:
                frame = decode_frame(data)
                self.frames[type(frame)].append(frame)
                self._changed.set()
        self.is_over = True


class ScriptedHead:
    """Speaks for the head of one session, one frame at a time."""

    def __init__(self, rig: Rig, route: list[Provider], *, loop: bool = False, eos=()) -> None:
        self.rig = rig
        self.route = list(route)
        self.session_id = KeyPair.generate().seed[:16]
        self.epoch = 0
        self.position = 0
        self.lines: dict[Provider, Line] = {}
        self.links: dict[int, Line] = {}
        """To hop 0, by epoch."""
        self.has_loop = loop
        self.eos = tuple(eos)
        self._ends = Ends(rig) if rig.sealed else None

    def frame(self, index: int, **change) -> Open:
        """The OPEN of the hop at `index`, in this epoch."""
        route, head, last = self.route, self.rig.head_host.peer_id, len(self.route) - 1
        is_last, is_end = index == last, index in (0, last)
        other = route[0] if is_last else route[last]
        loop = other if self.has_loop and is_end else None
        opened = Open(
            session_id=self.session_id,
            epoch=self.epoch,
            hop_index=index,
            hop_count=len(route),
            previous=route[index - 1].peer_id if index else head,
            next=head if is_last else route[index + 1].peer_id,
            next_addresses=() if is_last else route[index + 1].addresses,
            manifest_hash=MODEL,
            span=route[index].span,
            wire_dtype=self.rig.wire,
            sealed=self.rig.sealed,
            capacity_tokens=CAPACITY,
            sampling=GREEDY if is_last and not self.rig.sealed else None,
            lease=None,
            loop=loop.peer_id if loop else None,
            loop_addresses=loop.addresses if loop and is_last else (),
            eos=self.eos if is_last else (),
        )
        return replace(opened, **change)

    async def line(self, provider: Provider) -> Line:
        """The stream to a hop; a new one where there is none."""
        if provider not in self.lines or self.lines[provider].is_over:
            connection = await self.rig.head_host.connect(
                provider.peer_id, provider.host.addresses, timeout_s=1
            )
            self.lines[provider] = Line(await connection.open_stream(PROTOCOL))
        return self.lines[provider]

    async def send_opens(self, changes=None, **change) -> None:
        """OPEN to every hop. `changes`: by index, for that hop alone."""
        for index, provider in enumerate(self.route):
            line = await self.line(provider)
            await line.send(self.frame(index, **change | (changes or {}).get(index, {})))
            if index == 0:
                await self.attach(provider, LinkRole.STEPS)

    async def attach(self, provider: Provider, role: LinkRole) -> Line:
        """The head's own link to a hop 0, or to its standby."""
        connection = await self.rig.head_host.connect(
            provider.peer_id, provider.host.addresses, timeout_s=1
        )
        link = Line(await connection.open_stream(PROTOCOL))
        await link.send(Attach(self.session_id, self.epoch, 0, role))
        if role is LinkRole.STEPS:
            self.links[self.epoch] = link
        return link

    async def wait_opened(self) -> list[Opened]:
        """Every hop's OPENED of this epoch."""
        answers = []
        for provider in self.route:
            line = self.lines[provider]
            while True:
                opened = await line.wait(Opened, line.count(Opened) or 1)
                if opened.epoch == self.epoch:
                    break
                await line.wait(Opened, line.count(Opened) + 1)
            answers.append(opened)
        return answers

    async def open(self, changes=None, **change) -> list[Opened]:
        await self.send_opens(changes, **change)
        return await self.wait_opened()

    async def repair(self, resume: int, *, steps: int, changes=None) -> list[Opened]:
        """The next epoch, over `route` as it is now."""
        self.epoch += 1
        self.position = resume
        return await self.open(changes, resume=resume, steps=steps)

    async def step(self, tokens, *, wanted: int = 1, loop: int = 0, kind=None) -> None:
        kind = kind or (StepKind.DECODE if len(tokens) == 1 else StepKind.PREFILL)
        await self._send_rows(Step, kind, self.position, tokens, wanted, loop)
        self.position += len(tokens)

    async def replay(self, position: int, tokens) -> None:
        """REPLAY to hop 0."""
        await self._send_rows(Replay, StepKind.PREFILL, position, tokens, 0, 0)

    async def truncate(self, position: int) -> None:
        self.position = position
        await self.links[self.epoch].send(Truncate(self.session_id, self.epoch, position))

    async def result(self, count: int) -> Result:
        """The `count`-th result of the session, of whichever epoch."""
        return await self.lines[self.route[-1]].wait(Result, count)

    async def decode(self, tokens, *, loop: int = 0) -> int:
        """One step and the token drawn behind its last row."""
        seen = self.lines[self.route[-1]].count(Result)
        await self.step(tokens, loop=loop)
        result = await self.result(seen + 1)
        return self._ends.draw(result) if self._ends else drawn(result)

    async def probe(self, provider: Provider, nonce: int = 7) -> Progress:
        line = self.lines[provider]
        await line.send(Probe(self.session_id, nonce))
        return await line.wait(Progress, line.count(Progress) + 1)

    async def error(self, provider: Provider, count: int = 1, **options) -> ErrorFrame:
        return await self.lines[provider].wait(ErrorFrame, count, **options)

    async def close(self, *, steps: int = 0, whom=None) -> None:
        for provider in whom or self.route:
            line = self.lines[provider]
            if not line.is_over:
                await line.send(Close(self.session_id, self.epoch, steps, cancelled=True))

    async def meter(self, provider: Provider) -> Meter:
        return await self.lines[provider].wait(Meter)

    async def _send_rows(self, frame_type, kind, position, tokens, wanted, loop) -> None:
        payload, dtype = np.asarray(tokens, dtype="<i4").tobytes(), None
        if self._ends:
            payload, dtype = self._ends.embed(tokens, position), self.rig.wire
        frame = frame_type(
            self.session_id, self.epoch, kind, position, len(tokens), wanted, dtype,
            HIDDEN if dtype else 0, payload, payload_hash(payload), loop,
        )  # fmt: skip
        await self.links[self.epoch].send(frame)


class Ends:
    """The head's own shard of a sealed route."""

    def __init__(self, rig: Rig) -> None:
        self._wire = rig.wire
        self._engine = load(
            ShardSpec(rig.directory, Span(0, 0), True, True, compute_dtype=ComputeDtype.FP32)
        )
        self._engine.open(1, capacity_tokens=CAPACITY, sampling=GREEDY)

    def embed(self, tokens, position: int) -> bytes:
        item = StepItem(
            1, position, len(tokens), len(tokens), Output.HIDDEN, self._wire,
            tokens=np.asarray(tokens, np.int32),
        )  # fmt: skip
        return self._engine.step([item])[0].hidden.tobytes()

    def draw(self, result: Result) -> int:
        hidden = from_payload(result.payload, self._wire, count=1, hidden_size=HIDDEN)
        position = result.position + result.count - 1
        item = StepItem(1, position, 1, 1, Output.TOKENS, self._wire, hidden=hidden)
        return int(self._engine.step([item])[0].tokens[0])


def drawn(result: Result) -> int:
    """The one token of a result of an open route."""
    return int(np.frombuffer(result.payload, "<i4")[0])


async def generate(head: ScriptedHead, tokens: list[int], until: int) -> None:
    """Decode on, behind the tokens of the answer that there are."""
    while len(tokens) < until:
        tokens.append(await head.decode(tokens[-1:] if tokens else PROMPT))


def rows(tokens: list[int]) -> int:
    """Rows whose results have arrived: the last token has not gone round yet."""
    return len(PROMPT) + len(tokens) - 1
