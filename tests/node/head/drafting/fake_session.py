"""A session with the real interface over a made-up model and a made-up ring, in virtual time.

It refuses whatever a real one would: steps that do not follow on, too many on their way, rows
beyond the capacity, anything sent into a loop. Results come in order; void ones are dropped.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from protocol.errors import LocalProtocolError, SessionError
from protocol.frame import Result, StepKind
from protocol.limits import STEP_TOKENS_MAX
from protocol.session import STEPS_IN_FLIGHT_MAX
from protocol.tensor import payload_hash


@dataclass
class FakeRing:
    """Times in seconds. Links and hops take one step after another; the head sits between two."""

    hops: int = 3
    link_s: float = 0.030
    row_link_s: float = 0.0007
    """A row's bytes on one link."""
    hop_s: float = 0.0133
    row_hop_s: float = 0.0001
    jitter_s: float = 0.0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    _free_s: list = field(default_factory=list)

    def __post_init__(self):
        self._free_s = [0.0] * (2 * self.hops + 2)

    def pass_hops(self, start_s, rows):
        """When the last hop is done with rows that leave for hop 0 at `start_s`."""
        at_s = start_s
        for hop in range(self.hops):
            at_s = self._take(2 * hop, at_s, rows * self.row_link_s) + self.link_s
            at_s = self._take(2 * hop + 1, at_s, self.hop_s + rows * self.row_hop_s)
        return at_s

    def pass_back(self, start_s, rows):
        """When they are at the head, having left the last hop at `start_s`."""
        at_s = self._take(2 * self.hops, start_s, rows * self.row_link_s) + self.link_s
        return at_s + self.jitter_s * float(self.random.random())

    def _take(self, place, at_s, work_s):
        at_s = max(at_s, self._free_s[place]) + work_s
        self._free_s[place] = at_s
        return at_s


@dataclass
class _Step:
    result: Result
    arrives_s: float
    is_void: bool = False


class FakeSession:
    """`draw(rows)` is the token behind these rows: an open route, whose results are tokens."""

    dtype = None
    hidden_size = 0

    def __init__(
        self, draw, *, capacity_tokens, ring=None, cached_tokens=0, eos=frozenset(), prompt=()
    ):
        self._draw = draw
        self._capacity_tokens = capacity_tokens
        self._ring = ring or FakeRing()
        self._eos = eos
        self.cached_tokens = cached_tokens
        self.position = cached_tokens
        self.rows = list(prompt[:cached_tokens])
        """Of every hop, in the order in which steps and truncates reach it."""
        self.sent = []
        """(kind, position, count, loop) of every step."""
        self.truncates = []
        self._steps = deque()
        self._is_sent = asyncio.Event()
        self._last_s = 0.0

    @property
    def in_flight(self):
        now_s = asyncio.get_running_loop().time()
        return sum(step.arrives_s > now_s for step in self._steps)

    async def send_step(self, kind, payload, *, tokens, wanted, dtype, loop=0):
        tokens = list(tokens)
        if self.in_flight >= STEPS_IN_FLIGHT_MAX:
            raise LocalProtocolError("Too many steps on their way round.")
        if any(step.result.loop for step in self._steps):
            raise LocalProtocolError("A loop is under way.")
        assert 0 < len(tokens) <= STEP_TOKENS_MAX
        assert 0 <= wanted <= len(tokens)
        assert payload == np.asarray(tokens, "<i4").tobytes()
        assert self.position == len(self.rows)
        assert (kind is StepKind.DECODE) <= (len(tokens) == 1)
        if self.position + len(tokens) > self._capacity_tokens:
            raise SessionError("The step passes the session's capacity.")
        self.sent.append((kind, self.position, len(tokens), loop))
        await asyncio.sleep(0)
        start_s = asyncio.get_running_loop().time()
        position, self.position = self.position, self.position + len(tokens)
        self._run(kind, position, tokens, wanted, start_s, loop)
        self._is_sent.set()

    async def receive_result(self):
        while True:
            while not self._steps:
                self._is_sent.clear()
                await self._is_sent.wait()
            step = self._steps[0]
            now_s = asyncio.get_running_loop().time()
            if step.arrives_s > now_s:
                await asyncio.sleep(step.arrives_s - now_s)
            self._steps.popleft()
            if not step.is_void:
                self.position += step.result.loop
                return step.result

    async def truncate(self, position):
        assert 0 <= position <= self.position
        self.truncates.append(position)
        for step in self._steps:
            first, count = step.result.position, step.result.count
            assert not first < position < first + count
            step.is_void |= first >= position
        del self.rows[position:]
        self.position = position
        await asyncio.sleep(0)

    def _run(self, kind, position, tokens, wanted, start_s, loop):
        """One pass round the hops, and as many more as the last one feeds on."""
        self.rows += tokens
        done_s = self._ring.pass_hops(start_s, len(tokens))
        first = position + len(tokens) - wanted
        payload = b"".join(self.output(self.rows[: first + 1 + i]) for i in range(wanted))
        result = Result(
            bytes(16), 0, kind, position, len(tokens), wanted, self.dtype, self.hidden_size,
            payload, payload_hash(payload),
        )  # fmt: skip
        # results come one behind another, whatever the last link makes of it
        self._last_s = max(self._last_s, self._ring.pass_back(done_s, max(wanted, 1)))
        step = _Step(result, self._last_s)
        self._steps.append(step)
        if not loop:
            return
        (token,) = np.frombuffer(payload, "<i4").tolist()
        end = position + len(tokens)
        if token not in self._eos and end < self._capacity_tokens:
            step.result = replace(result, loop=1)
            self._run(StepKind.DECODE, end, [token], 1, done_s, loop - 1)

    def output(self, rows):
        """What the last hop sends for the last of `rows`."""
        return np.asarray([self._draw(rows)], "<i4").tobytes()
