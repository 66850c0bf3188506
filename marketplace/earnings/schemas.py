"""JSON of `earnings`."""

from typing import Literal

from marketplace.fields import Schema

__all__ = [
    "BreakdownList",
    "BreakdownSchema",
    "EarningsBy",
    "EarningsSchema",
    "HeldSchema",
    "MachineEarnings",
    "ReleaseList",
    "ReleaseSchema",
]

EarningsBy = Literal["machine", "model", "day"]


class MachineEarnings(Schema):
    """One machine of the account."""

    peer_id: str
    name: str
    earned_nanos: int
    """Settled in all."""
    waiting_nanos: int
    """Of that, not released yet."""
    unsettled_nanos: int
    """Receipts are in; their sessions are not settled yet."""


class HeldSchema(Schema):
    """What is held back for one reason, and until when the last of it."""

    reason: str
    nanos: int
    parts: int
    until_s: int


class EarningsSchema(Schema):
    """Where a provider's money is. earned = waiting + held + payable + in transit + paid, less what
    rulings took, plus what was paid for machines that have since moved."""

    account_id: str
    currency: Literal["USD"] = "USD"
    earned_nanos: int
    unsettled_nanos: int
    waiting_nanos: int
    held_nanos: int
    payable_nanos: int
    in_transit_nanos: int
    paid_nanos: int
    machines: list[MachineEarnings]
    held: list[HeldSchema]


class BreakdownSchema(Schema):
    """Leases of one machine, model or day."""

    group: str
    sessions: int
    settled_nanos: int
    unsettled_nanos: int
    token_layers: int
    bytes_carried: int


class BreakdownList(Schema):
    """In the order of `group`; `total` is the sum of `data`."""

    by: EarningsBy
    start: str
    end: str
    data: list[BreakdownSchema]
    total: BreakdownSchema


class ReleaseSchema(Schema):
    """A machine's day as it was released: what became payable, what is held, and why."""

    machine: str
    period_s: int
    credited_nanos: int
    payable_nanos: int
    held_nanos: int
    reasons: list[str]
    until_s: int | None
    released_at_s: int


class ReleaseList(Schema):
    """The newest first; `next` goes on with `after=`."""

    data: list[ReleaseSchema]
    next: str | None
