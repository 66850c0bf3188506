"""The rows of one session at this hop in one epoch: queued, held back while unpaid, run, sent on.

One after another through a bounded queue, so a slow hop slows its sender and order is kept:

    first   the engine forgets what the epoch before had beyond the rows that stay
    then    the next hop is sent what it lacks of those rows, from this hop's log
    then    what comes in: REPLAY as far as the next hop lacks it, STEP, TRUNCATE

What is sent to the next hop is logged before it leaves, so that it can be sent again.
"""

import asyncio
from collections.abc import Awaitable

from node.engine.base import StepItem, StepResult
from node.engine.errors import StepInvalid
from node.serve.codes import gone
from node.serve.hop_state import HopState
from node.serve.items import replay_item, step_item
from node.serve.onward import Onward
from node.serve.row_queue import RowQueue
from protocol.errors import ErrorCode, SessionError
from protocol.frame import Replay, Result, Step, StepKind, Truncate
from protocol.identity import PeerId
from protocol.session import REPAIR_WAIT_S, UNPAID_TIMEOUT_S
from protocol.tensor import payload_hash

__all__ = ["StepWork"]


class StepWork:
    """Runs what comes in for one epoch. Made with the epoch, before its links stand."""

    def __init__(self, state: HopState) -> None:
        self._state = state
        self._queue = RowQueue(is_mirror=state.request.standby)

    def take(self, frame: Step | Replay | Truncate, source: PeerId | None) -> None:
        """Take a frame in order, from `source`: the hop before, the head, or, None, this hop.

        Raises RemoteProtocolError or SessionError where it is not what comes next.
        """
        session = self._state.session
        match frame:
            case Step():
                self._state.carried_bytes.received += len(frame.payload)
                is_live = session.accept_step(frame)
            case Replay():
                self._state.carried_bytes.received += len(frame.payload)
                is_live = session.accept_replay(frame)
            case Truncate():
                is_live = session.accept_truncate(frame)
        if is_live:
            self._queue.put(frame, source)

    async def wait_room(self) -> None:
        """Until the engine has caught up with the replays that wait."""
        await self._queue.wait_room()

    async def run(self, onward: Onward, is_engine_ready: Awaitable[None]) -> None:
        """Until cancelled. Raises what ends the session, and NeighbourGone for who is lost."""
        state = self._state
        await is_engine_ready
        await self._replay_own(onward)
        while True:
            frame, source = await self._queue.take()
            match frame:
                case Step():
                    await self._wait_paid()
                    state.session.check_covered(frame)
                    await self._run_step(frame, source, onward)
                case Replay():
                    replays = self._queue.take_adjacent(frame, source)
                    state.session.check_covered(*replays)
                    await self._run_replay(replays, source, onward)
                case Truncate():
                    await self._run_truncate(frame, onward)

    async def _replay_own(self, onward: Onward) -> None:
        """Send the next hop what it lacks of the rows that stayed here."""
        state, log = self._state, self._state.log
        stop = min(state.session.rows, state.request.resume)
        if log is None or onward.link is None or onward.rows >= stop:
            return
        if log.first > onward.rows:
            # OPENED has told the head so, which lets this hop forget its rows in a next epoch
            await asyncio.sleep(REPAIR_WAIT_S)
            raise SessionError(
                f"This hop can replay from row {log.first} on, and its next one needs row "
                f"{onward.rows}: no repair came to let it begin anew.",
                code=ErrorCode.TIMED_OUT,
            )
        position = onward.rows
        while (chunk := log.read(position, stop)) is not None:
            await self._send_replay(chunk.position, chunk.count, chunk.payload, onward)
            position += chunk.count

    async def _wait_paid(self) -> None:
        """Hold the step back while a receipt is owed for more than the credit."""
        paid = self._state.paid
        try:
            async with asyncio.timeout(UNPAID_TIMEOUT_S):
                while not self._state.session.may_work():
                    paid.clear()
                    await paid.wait()
        except TimeoutError:
            raise SessionError(
                "No receipt came for work beyond the credit.", code=ErrorCode.UNPAID
            ) from None

    async def _run_step(self, step: Step, source: PeerId | None, onward: Onward) -> None:
        state = self._state
        item = step_item(step, state.sequence_id, state.request, samples=state.samples)
        result = await self._submit(item, source)
        rows = result.tokens if state.samples else result.hidden
        assert rows is not None
        payload = rows.astype("<i4").tobytes() if state.samples else rows.tobytes()
        digest = payload_hash(payload)
        fed = self._feed(step, payload, digest, onward)
        # counted before it leaves: the head's CLOSE may come while the send still waits
        meter = state.session.complete_step(step, bytes_out=len(payload), digest_out=digest)
        state.rows_out = step.position + step.count
        if state.log is not None:
            state.log.append(step.position, step.count, payload)
        await onward.send(self._onward(step, payload, digest, loop=0 if fed is None else 1))
        state.carried_bytes.sent += len(payload)
        if fed is not None:
            if onward.loop is not None:
                await onward.loop.send(fed)
            else:
                self.take(fed, None)
        if meter is not None:
            await state.head.send(meter)

    def _onward(self, step: Step, payload: bytes, digest: bytes, *, loop: int) -> Step | Result:
        """What the next one in the ring gets: a STEP for a hop, a RESULT for the head."""
        state = self._state
        is_last = state.request.is_last
        kind = Result if is_last else Step
        return kind(
            step.session_id,
            step.epoch,
            step.kind,
            step.position,
            step.count,
            step.wanted,
            None if state.samples else state.request.wire_dtype,
            0 if state.samples else state.parts.runner.info.hidden_size,
            payload,
            digest,
            loop if is_last else step.loop,
        )

    def _feed(self, step: Step, payload: bytes, digest: bytes, onward: Onward) -> Step | None:
        """The step that the token just drawn makes for hop 0; None where the loop ends."""
        request = self._state.request
        position = step.position + step.count
        has_way = onward.loop is not None or onward.feeds_itself
        if not (step.loop and self._state.samples and has_way):
            return None
        if int.from_bytes(payload, "little", signed=True) in request.eos:
            return None
        if position + 1 > request.capacity_tokens:
            return None
        return Step(
            step.session_id, step.epoch, StepKind.DECODE, position, 1, 1, None, 0,
            payload, digest, step.loop - 1,
        )  # fmt: skip

    async def _run_replay(
        self, replays: list[Replay], source: PeerId | None, onward: Onward
    ) -> None:
        """Rows again, or for a standby in advance: for their KV, and on to who lacks them too."""
        state = self._state
        item = replay_item(replays, state.sequence_id, state.request)
        result = await self._submit(item, source)
        for replay in replays:
            state.session.complete_replay(replay)
        if state.log is not None:
            assert result.hidden is not None
            payload = result.hidden.tobytes()
            state.log.append(item.position, item.count, payload)
            await self._pass_on(item.position, payload, onward, state.log.chunk_rows)
        if onward.link is None:
            state.rows_out = item.position + item.count

    async def _pass_on(
        self, position: int, payload: bytes, onward: Onward, chunk_rows: int
    ) -> None:
        """Send the rows of a replay that the next hop lacks too."""
        if onward.link is None:
            return
        row_bytes = self._state.row_bytes
        stop = position + len(payload) // row_bytes
        for row in range(max(position, onward.rows), stop, chunk_rows):
            end = min(row + chunk_rows, stop)
            part = payload[(row - position) * row_bytes : (end - position) * row_bytes]
            await self._send_replay(row, end - row, part, onward)

    async def _send_replay(self, position: int, count: int, payload: bytes, onward: Onward) -> None:
        state = self._state
        digest = payload_hash(payload)
        replay = Replay(
            state.request.session_id, state.request.epoch, StepKind.PREFILL, position, count, 0,
            state.request.wire_dtype, state.parts.runner.info.hidden_size, payload, digest,
        )  # fmt: skip
        state.session.replayed_onward(digest)
        state.rows_out = position + count
        await onward.send(replay)
        state.carried_bytes.sent += len(payload)

    async def _run_truncate(self, truncate: Truncate, onward: Onward) -> None:
        # noted first: were this cancelled, the engine would forget all the same
        state, position = self._state, truncate.position
        state.session.complete_truncate(truncate)
        if state.log is not None:
            state.log.truncate(position)
        state.rows_out = min(state.rows_out, position)
        await state.parts.runner.truncate(state.sequence_id, position)
        await onward.send(truncate)

    async def _submit(self, item: StepItem, source: PeerId | None) -> StepResult:
        """Run it. What the engine refuses is its sender's fault."""
        state = self._state
        try:
            return await state.parts.runner.submit(item, lease_key=state.lease_key)
        except StepInvalid as error:
            if source is None:
                raise
            raise gone(source, error.message, ErrorCode.MALFORMED) from error
