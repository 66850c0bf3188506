"""How a session's rows reach hop 0: steps, replays after a repair, and a copy for its standby."""

import time

import numpy as np

from node.head.ends import Ends
from node.head.hops import RouteHops
from node.head.prefix import Prefix
from node.head.record import SentStep, SessionRecord
from node.head.standbys import Standbys
from protocol.frame import Replay, Result, Step, StepKind
from protocol.head_session import HeadSession
from protocol.tensor import payload_hash

__all__ = ["Feed"]

REPLAY_ROWS_MAX = 256
"""Rows of one REPLAY from the head."""


class Feed:
    """Sends rows, and keeps in `record` what would have to be sent again."""

    def __init__(
        self,
        session: HeadSession,
        record: SessionRecord,
        ends: Ends,
        prefix: Prefix | None,
        *,
        hidden_size: int,
    ) -> None:
        self._session = session
        self._record = record
        self._ends = ends
        self._prefix = prefix
        self._hidden_size = hidden_size

    async def launch(self, step: SentStep, hops: RouteHops, standbys: Standbys) -> None:
        """A step leaves; a hop that cannot be told is lost, and the step is kept."""
        digest = payload_hash(step.payload)
        was_idle = self._session.in_flight == 0
        ticket = self._session.send_step(
            step.kind, len(step.tokens), step.wanted, digest, loop=step.loop
        )
        self.note(ticket.position, step, standbys)
        if was_idle:
            hops.watch.waiting(time.monotonic())
        hidden_size = self._hidden_size if step.dtype else 0
        frame = Step(
            self._session.session_id, self._session.epoch, step.kind, ticket.position,
            ticket.count, step.wanted, step.dtype, hidden_size, step.payload, digest, step.loop,
        )  # fmt: skip
        await hops.tell_rows(frame)

    def note(self, position: int, step: SentStep, standbys: Standbys) -> None:
        """These rows are under way, whoever sent them."""
        self._record.sent(position, step)
        if self._prefix is not None:
            self._prefix.record(position, step.tokens)
        standbys.sent(position + len(step.tokens))

    def follow(self, loop: int, result: Result, standbys: Standbys) -> None:
        """The last hop has sent on what it drew: a row like any other. `loop`: its step's."""
        (token,) = np.frombuffer(result.payload, dtype="<i4").tolist()
        fed = SentStep(StepKind.DECODE, result.payload, (token,), 1, None, loop - 1)
        self.note(self._session.position - 1, fed, standbys)

    async def bring_up(self, hops: RouteHops, standbys: Standbys) -> None:
        """A later epoch is open: replay to hop 0 what it lacks, and send again what is missing."""
        resume = self._session.resume
        for start in range(self._session.opened[0].cached_tokens, resume, REPLAY_ROWS_MAX):
            replay = await self.replay(start, min(start + REPLAY_ROWS_MAX, resume))
            self._session.replayed(replay.payload_sha256)
            await hops.tell_rows(replay)
        standbys.sent(resume)
        for step in self._record.take_under_way(resume):
            await self.launch(step, hops, standbys)

    async def replay(self, start: int, stop: int) -> Replay:
        """Rows of the session as hop 0 takes them."""
        payload = await self._ends.embed(self._record.tokens(start, stop), start)
        dtype = self._ends.dtype
        return Replay(
            self._session.session_id, self._session.epoch, StepKind.PREFILL, start, stop - start,
            0, dtype, self._hidden_size if dtype else 0, payload, payload_hash(payload),
        )  # fmt: skip
