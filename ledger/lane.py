"""A lease's watermark, and the rule for what may follow it. Pure; the ledger and auditors share it.

Receipts are cumulative: of two under one lease the later sequence may not have less of anything,
and if no step lies between them it may not have more either. Steps and link hashes begin anew with
every epoch of a repaired session. What a replay brings before the first step of such an epoch is
carried without a step.
"""

from dataclasses import dataclass

from ledger.errors import ReceiptRejected
from protocol.money import Nanos, Work
from protocol.receipt import Receipt
from protocol.tensor import LINK_HASH_START

__all__ = ["Watermark", "check_order"]


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far one lease has come; all counts are cumulative. The default is a fresh lease."""

    sequence: int = 0
    epoch: int = 0
    steps: int = 0
    tokens: int = 0
    work: Work = Work()  # noqa: RUF009 - frozen
    amount_nanos: Nanos = 0
    link_in_hash: bytes = LINK_HASH_START
    link_out_hash: bytes = LINK_HASH_START
    final: bool = False

    @classmethod
    def of(cls, receipt: Receipt) -> "Watermark":
        return cls(
            sequence=receipt.sequence,
            epoch=receipt.epoch,
            steps=receipt.steps,
            tokens=receipt.tokens,
            work=receipt.work,
            amount_nanos=receipt.amount_nanos,
            link_in_hash=receipt.link_in_hash,
            link_out_hash=receipt.link_out_hash,
            final=receipt.final,
        )


def check_order(lease_id: bytes, earlier: Watermark, later: Watermark) -> None:
    """Raise ReceiptRejected unless `later` can follow `earlier`; sequences are in that order."""
    if earlier.final:
        raise ReceiptRejected(lease_id, f"receipt {earlier.sequence} closed the session")
    same_epoch = later.epoch == earlier.epoch
    went_back = (
        later.epoch < earlier.epoch
        or (same_epoch and later.steps < earlier.steps)
        or later.tokens < earlier.tokens
        or not later.work.covers(earlier.work)
        or later.amount_nanos < earlier.amount_nanos
    )
    if went_back:
        raise ReceiptRejected(
            lease_id, f"receipt {later.sequence} says less than receipt {earlier.sequence}"
        )
    may_replay = later.epoch > 0 and later.steps == 0
    no_step_between = same_epoch and later.steps == earlier.steps and not may_replay
    if no_step_between and _carried(later) != _carried(earlier):
        raise ReceiptRejected(
            lease_id,
            f"receipts {earlier.sequence} and {later.sequence} differ after the same step",
        )


def _carried(mark: Watermark) -> tuple[int, Work, bytes, bytes]:
    return mark.tokens, mark.work, mark.link_in_hash, mark.link_out_hash
