"""JSON of `payouts`. Amounts are nanos; what the processor is told is whole cents."""

from typing import Annotated, Literal

from pydantic import Field

from marketplace.fields import HexId, Printable, Schema
from marketplace.payouts.models import PayoutRow, RecipientRow
from marketplace.payouts.schedule import MINIMUM_CENTS_MAX, MINIMUM_CENTS_MIN, PayoutTerms

__all__ = [
    "ExitSchema",
    "PayoutList",
    "PayoutRequest",
    "PayoutSchema",
    "RecipientOpened",
    "RecipientRequest",
    "RecipientSchema",
    "ScheduleSchema",
]

StateName = Literal[
    "draft",
    "reserved",
    "submitting",
    "submitted",
    "paid",
    "failed",
    "reversed",
    "held",
    "canceled",
]


class RecipientRequest(Schema):
    """Begin, or go on with, telling the processor where the money goes."""

    email: Annotated[Printable, Field(max_length=254, pattern="^[^@ ]+@[^@ ]+$")]
    """The processor writes there."""
    country: Annotated[Printable, Field(max_length=64)]
    """Where the account is paid: two letters of ISO 3166-1, the provider's own word."""


class RecipientSchema(Schema):
    """How the account's recipient stood when the processor was last asked."""

    recipient: str
    country: str
    """In capitals."""
    payouts_enabled: bool
    missing: list[str]
    """What the processor still asks for, in its words."""
    checked_at_s: int | None

    @classmethod
    def of(cls, row: RecipientRow) -> "RecipientSchema":
        return cls(
            recipient=row.recipient,
            country=row.country,
            payouts_enabled=row.payouts_enabled,
            missing=row.missing.split("\n") if row.missing else [],
            checked_at_s=row.checked_at_s,
        )


class RecipientOpened(RecipientSchema):
    """A recipient, and where its owner goes on; the page is of single use and lives for minutes."""

    onboarding_url: str
    """Empty where nothing is asked, as with the test processor."""


class PayoutRequest(Schema):
    """Pay out now all that is payable; the same `payout_id` again is the same payout."""

    payout_id: HexId


class PayoutSchema(Schema):
    """One payout and why it stands where it does."""

    payout_id: HexId
    state: StateName
    reason: str
    """A word for programs: why it failed, is held, was canceled or came back; else empty."""
    origin: Literal["weekly", "manual"]
    amount_nanos: int
    amount_cents: int
    reversed_cents: int
    """What of it came back."""
    transfer_id: str | None
    """The processor's, once it is sent."""
    created_at_s: int
    changed_at_s: int

    @classmethod
    def of(cls, row: PayoutRow) -> "PayoutSchema":
        return cls.model_validate(
            {name: getattr(row, name) for name in cls.model_fields}, strict=False
        )


class ScheduleSchema(Schema):
    """When payouts begin, and from what amount."""

    schedule: Literal["weekly", "manual"]
    minimum_cents: Annotated[int, Field(ge=MINIMUM_CENTS_MIN, le=MINIMUM_CENTS_MAX)]

    @classmethod
    def of(cls, terms: PayoutTerms) -> "ScheduleSchema":
        return cls(schedule=terms.schedule.value, minimum_cents=terms.minimum_cents)


class ExitSchema(Schema):
    """The account is leaving: its reserve is payable from `reserve_until_s` at the latest."""

    exit_at_s: int
    reserve_until_s: int


class PayoutList(Schema):
    """Payouts, newest first, and where the account's earnings stand that a machine has left."""

    data: list[PayoutSchema]
    payable_nanos: int
    held_nanos: int
    in_transit_nanos: int
    frozen: list[str]
    """Why nothing leaves the account; empty where it is not frozen."""
    schedule: ScheduleSchema
    exit_at_s: int | None
