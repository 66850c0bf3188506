"""What this hop has earned: receipts verified, countersigned, kept on disk, and handed in.

A receipt is durable before its countersignature leaves, so a crash loses no receipt that the payer
believes accepted. Only the largest of a lease counts; the file keeps them all until handed in.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.serve.answer_log import AnswerLog
from node.serve.receipt_log import ReceiptLog
from protocol.acknowledgement import REJECTED, SignedResults
from protocol.envelope import open_envelope
from protocol.errors import LimitExceeded, PieceworkError, RemoteProtocolError
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.receipt import CosignedReceipt, Receipt, cosign, open_receipt

__all__ = ["Collector", "ReceiptSink", "check_supersedes"]

HAND_IN_PERIOD_S = 1.0
"""Receipts of about a second travel together; the marketplace settles in windows anyway."""
HAND_IN_BATCH_MAX = 256
RETRY_DELAY_MAX_S = 60.0

logger = logging.getLogger(__name__)


class ReceiptSink(Protocol):
    """Where receipts go: the marketplace."""

    async def hand_in(self, batch: Sequence[bytes]) -> SignedResults:
        """One result a receipt, in their order, and the marketplace's signature over them.

        Raises PieceworkError when it cannot be reached; the batch is tried again.
        """
        ...


@dataclass(slots=True)
class _Lane:
    receipt: Receipt
    cosigned: bytes
    handed_in: bool
    over: bool = False
    """The session has ended: nothing newer will come."""


class Collector:
    """Collects for every session of this node. Call from the event loop only."""

    def __init__(
        self,
        key: KeyPair,
        log: ReceiptLog,
        sink: ReceiptSink,
        answers: AnswerLog | None = None,
    ) -> None:
        """`answers`: where the marketplace's signed answers are kept; with it none that is unsigned
        counts as an acknowledgement."""
        self._key = key
        self._log = log
        self._sink = sink
        self._answers = answers
        self._refused: Counter[str] = answers.refused() if answers else Counter()
        self._lanes: dict[bytes, _Lane] = {}
        for cosigned in log.load():
            receipt = open_envelope(Receipt, CosignedReceipt.decode(cosigned).envelope)
            held = self._lanes.get(receipt.lease_id)
            if held is None or held.receipt.sequence < receipt.sequence:
                self._lanes[receipt.lease_id] = _Lane(receipt, cosigned, handed_in=False)
        self._appending = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Leases with a receipt that the marketplace has not acknowledged."""
        return sum(not lane.handed_in for lane in self._lanes.values())

    @property
    def refused(self) -> Mapping[str, int]:
        """How many receipts the marketplace has refused, by its reason, as far as is kept."""
        return dict(self._refused)

    def start(self) -> None:
        self._task = asyncio.create_task(self._hand_in_for_ever())

    async def collect(
        self, envelope: bytes, lease: Lease, *, check: Callable[[Receipt], None] | None = None
    ) -> tuple[Receipt, bytes]:
        """Verify a payer's receipt, keep it, and give it with our countersignature.

        `check` raises for one that may not be countersigned. Raises RemoteProtocolError or a
        VerificationError; then nothing is kept.
        """
        receipt = open_receipt(envelope, lease)
        if check is not None:
            check(receipt)
        held = self._lanes.get(lease.lease_id)
        if held is not None:
            check_supersedes(receipt, held.receipt, envelope, held.cosigned)
        cosigned = cosign(envelope, self._key)
        encoded = cosigned.encode()
        self._appending += 1
        try:
            await asyncio.to_thread(self._log.append, encoded)
        finally:
            self._appending -= 1
        self._lanes[lease.lease_id] = _Lane(receipt, encoded, handed_in=False, over=receipt.final)
        self._wake.set()
        return receipt, cosigned.countersignature

    def session_over(self, lease_id: bytes) -> None:
        """No receipt will follow, final or not."""
        if lane := self._lanes.get(lease_id):
            lane.over = True

    async def close(self, *, timeout_s: float) -> None:
        """Hand in what is left, for at most `timeout_s`; the rest stays on disk for next time."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(PieceworkError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.pending:
                    await self._hand_in_once()
        self._log.close()

    async def _hand_in_for_ever(self) -> None:
        delay_s = HAND_IN_PERIOD_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(delay_s)
            try:
                while self.pending:
                    await self._hand_in_once()
                delay_s = HAND_IN_PERIOD_S
            except PieceworkError as error:
                delay_s = min(2 * delay_s, RETRY_DELAY_MAX_S)
                logger.warning("receipts wait for the marketplace: %s", error)
                self._wake.set()

    async def _hand_in_once(self) -> None:
        waiting = [lane for lane in self._lanes.values() if not lane.handed_in]
        batch = waiting[:HAND_IN_BATCH_MAX]
        answer = await self._sink.hand_in([lane.cosigned for lane in batch])
        _check_answers(answer, batch)
        if self._answers is not None:
            # signed or not believed: the batch is tried again
            await asyncio.to_thread(self._answers.keep, answer)
        for lane, result in zip(batch, answer.results, strict=True):
            lane.handed_in = True
            if result.status == REJECTED:
                self._refused[result.reason] += 1
                lease_id = lane.receipt.lease_id.hex()
                logger.error(
                    "the marketplace refused a receipt of lease %s: %s", lease_id, result.reason
                )
        self._forget_finished()

    def _forget_finished(self) -> None:
        """Drop leases that are over; when nothing waits, the file starts afresh."""
        for lease_id, lane in list(self._lanes.items()):
            if lane.handed_in and lane.over:
                del self._lanes[lease_id]
        if not self.pending and not self._appending:
            self._log.reset()


def _check_answers(answer: SignedResults, batch: Sequence[_Lane]) -> None:
    """That each result is for the receipt in its place: else nothing of the answer counts."""
    digests = [hashlib.sha256(lane.cosigned).digest() for lane in batch]
    if [result.receipt_sha256 for result in answer.results] != digests:
        raise RemoteProtocolError("The marketplace answered for other receipts.")


def check_supersedes(new: Receipt, old: Receipt, envelope: bytes, old_cosigned: bytes) -> None:
    """Raise unless a payer's receipt says more than the last one, or is that very one again."""
    if new.sequence == old.sequence and CosignedReceipt.decode(old_cosigned).envelope == envelope:
        return  # the very same again: the ack was lost
    if new.sequence <= old.sequence:
        raise RemoteProtocolError("The receipt is not newer than the last one.")
    # steps begin anew with every epoch, and no epoch comes back
    position, before = (new.epoch, new.steps), (old.epoch, old.steps)
    if not new.work.covers(old.work) or new.tokens < old.tokens or position < before:
        raise LimitExceeded("The receipt takes back work that was signed before.")
