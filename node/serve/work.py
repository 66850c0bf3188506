"""The steps of one session at this hop: queued, held back while unpaid, run, and sent on.

One after another through a bounded queue, so a slow hop slows its sender and order is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from node.engine.runner import EngineRunner
from node.serve.items import step_item
from protocol.errors import ErrorCode, RemoteProtocolError, SessionError
from protocol.frame import Meter, Result, Step, Truncate
from protocol.hop_session import HopSession
from protocol.session import STEPS_IN_FLIGHT_MAX, UNPAID_TIMEOUT_S
from protocol.tensor import payload_hash

__all__ = ["LinkBytes", "StepWork"]


@dataclass(slots=True)
class LinkBytes:
    """Activation payload bytes counted at the streams themselves, apart from any receipt."""

    received: int = 0
    sent: int = 0


class StepWork:
    """Runs a session's steps. `send_on` takes what goes onward, `send_meter` what the head sees."""

    def __init__(
        self,
        session: HopSession,
        runner: EngineRunner,
        *,
        sequence_id: int,
        lease_key: bytes,
        send_on: Callable[[Step | Result | Truncate], Awaitable[None]],
        send_meter: Callable[[Meter], Awaitable[None]],
    ) -> None:
        self.bytes = LinkBytes()
        self.paid = asyncio.Event()
        """Set when a receipt has come."""
        self._session = session
        self._runner = runner
        self._sequence_id = sequence_id
        self._lease_key = lease_key
        self._send_on = send_on
        self._send_meter = send_meter
        # one more than steps: a TRUNCATE may stand among them
        self._queue: asyncio.Queue[Step | Truncate] = asyncio.Queue(STEPS_IN_FLIGHT_MAX + 1)

    def enqueue(self, frame: Step | Truncate) -> None:
        """Take a frame in order; raises RemoteProtocolError when too many were sent ahead."""
        if isinstance(frame, Step):
            self.bytes.received += len(frame.payload)
            if not self._session.accept_step(frame):
                return
        elif not self._session.accept_truncate(frame):
            return
        try:
            self._queue.put_nowait(frame)
        except asyncio.QueueFull:
            raise RemoteProtocolError(
                f"More than {STEPS_IN_FLIGHT_MAX} steps were sent ahead."
            ) from None

    async def run(self) -> None:
        """Until cancelled. Raises what ends the session."""
        while True:
            frame = await self._queue.get()
            if isinstance(frame, Truncate):
                await self._runner.truncate(self._sequence_id, frame.position)
                await self._send_on(frame)
                continue
            await self._wait_paid()
            await self._run_step(frame)

    async def _wait_paid(self) -> None:
        """Hold the step back while a receipt is owed for more than the credit."""
        try:
            async with asyncio.timeout(UNPAID_TIMEOUT_S):
                while not self._session.may_work():
                    self.paid.clear()
                    await self.paid.wait()
        except TimeoutError:
            raise SessionError(
                "No receipt came for work beyond the credit.", code=ErrorCode.UNPAID
            ) from None

    async def _run_step(self, step: Step) -> None:
        opened = self._session.open
        samples = opened.is_last and not opened.sealed
        result = await self._runner.submit(
            step_item(step, self._sequence_id, opened, samples=samples), lease_key=self._lease_key
        )
        rows = result.tokens if samples else result.hidden
        assert rows is not None
        payload = rows.astype("<i4").tobytes() if samples else rows.tobytes()
        digest = payload_hash(payload)
        # counted before it leaves: the head's CLOSE may come while the send still waits
        meter = self._session.complete_step(step, bytes_out=len(payload), digest_out=digest)
        await self._send_on(self._onward(step, payload, digest, samples=samples))
        self.bytes.sent += len(payload)
        if meter is not None:
            await self._send_meter(meter)

    def _onward(self, step: Step, payload: bytes, digest: bytes, *, samples: bool) -> Step | Result:
        """What the next one in the ring gets: a STEP for a hop, a RESULT for the head."""
        opened = self._session.open
        kind = Result if opened.is_last else Step
        return kind(
            step.session_id,
            step.epoch,
            step.kind,
            step.position,
            step.count,
            step.wanted,
            None if samples else opened.wire_dtype,
            0 if samples else self._runner.info.hidden_size,
            payload,
            digest,
        )
