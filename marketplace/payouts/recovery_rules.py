"""What to do about a payout whose submission has no known outcome: pure.

Always look first: the transfers of the payout's group are the truth. An idempotency key protects
only as long as the processor remembers it (24 hours), so a payout is sent again under the same key
while that is certain, and under a new one only when two look-ups, an hour apart, found nothing
after the old key can do nothing any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from marketplace.payments.processor import TransferRecord

__all__ = [
    "KEY_SAFE_S",
    "LOOK_AGAIN_S",
    "Adopt",
    "Attempt",
    "Decision",
    "Hold",
    "NewKey",
    "SameKey",
    "Wait",
    "decide",
]

KEY_SAFE_S = 23 * 3600
"""An hour less than the processor remembers a key: a request under way and two clocks fit in it."""
LOOK_AGAIN_S = 3600
"""Between the two look-ups: longer than any request lives, or a list lags behind."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A payout that is being submitted, as its worker has committed it."""

    payout_id: bytes
    recipient: str
    amount_cents: int
    attempt: int
    attempt_at_s: int
    """When this attempt's key was first to be used."""
    deadline_s: int
    """After it the attempt is no longer this worker's."""
    missed_at_s: int | None = None

    @property
    def name(self) -> str:
        """The payout's id as the processor knows it."""
        return self.payout_id.hex()


@dataclass(frozen=True, slots=True)
class Adopt:
    """This transfer is the payout's."""

    record: TransferRecord


@dataclass(frozen=True, slots=True)
class Hold:
    """Stop, and let a person see it: `kind` is a word for programs."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class SameKey:
    """Send again under the same key: the processor does it at most once."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """Send under a new key, with an alarm: the old one is forgotten and did nothing."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again then; the first empty look-up after the key's time is remembered."""

    until_s: int
    missed_at_s: int


Decision = Adopt | Hold | SameKey | NewKey | Wait


def decide(attempt: Attempt, found: Sequence[TransferRecord], *, now_s: int) -> Decision:
    """The one next thing to do, given every transfer of the payout's group."""
    if found:
        return _judge(attempt, found)
    if now_s - attempt.attempt_at_s < KEY_SAFE_S:
        return SameKey()
    if attempt.missed_at_s is None:
        return Wait(now_s + LOOK_AGAIN_S, now_s)
    if now_s - attempt.missed_at_s < LOOK_AGAIN_S:
        return Wait(attempt.missed_at_s + LOOK_AGAIN_S, attempt.missed_at_s)
    return NewKey()


def _judge(attempt: Attempt, found: Sequence[TransferRecord]) -> Decision:
    """One transfer that is ours, by payout, recipient and amount; anything else is held.

    Where a person has taken back a second transfer at the processor, the one left over is it.
    """
    live = [record for record in found if record.reversed_cents < record.amount_cents]
    candidates = live or list(found)[-1:]
    if len(candidates) > 1:
        names = ", ".join(record.transfer_id for record in candidates)
        return Hold("two_transfers", f"The processor has {len(candidates)}: {names}."[:500])
    record = candidates[0]
    expected = (attempt.name, attempt.recipient, attempt.amount_cents)
    if (record.payout_id, record.recipient, record.amount_cents) != expected:
        return Hold(
            "other_transfer",
            f"{record.transfer_id} has {record.amount_cents} cents for {record.recipient},"
            f" expected {attempt.amount_cents} for {attempt.recipient}."[:500],
        )
    return Adopt(record)
