"""JSON of `payments`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from marketplace.fields import HexId, Schema
from protocol.money import NANOS_PER_USD

__all__ = [
    "CardCheckout",
    "CardRequest",
    "CardSchema",
    "CheckoutCompleted",
    "EventTaken",
    "HistorySchema",
    "RechargeChoice",
    "RechargeSchema",
    "RefundRequest",
    "RefundSchema",
    "TopupEntry",
    "TopupRequest",
    "TopupSchema",
]

TOPUP_NANOS_MIN = NANOS_PER_USD // 100
"""One cent: below it a card's fixed fee would be all there is."""
TOPUP_NANOS_MAX = 10_000 * NANOS_PER_USD
"""What one typing mistake may cost at most."""
RECHARGE_NANOS_MIN = 5 * NANOS_PER_USD
"""Below it the fixed fee of a card is more than a twentieth."""
MONTHLY_NANOS_MAX = 100_000 * NANOS_PER_USD

_Amount = Annotated[int, Field(ge=TOPUP_NANOS_MIN, le=TOPUP_NANOS_MAX)]


class TopupRequest(Schema):
    """Pay in; the same `topup_id` again is the same top-up."""

    amount_nanos: _Amount
    topup_id: HexId
    save_card: bool = False
    """Keep the card for auto-recharge."""


class TopupSchema(Schema):
    """A top-up: open until the processor says that it is paid."""

    topup_id: HexId
    status: Literal["open", "paid"]
    amount_nanos: int
    checkout_url: str
    """Where to pay; a path is on this marketplace."""
    receipt_url: str = ""
    """The processor's receipt, once it is paid."""


class CheckoutCompleted(Schema):
    """The test processor has reported the top-up as paid."""

    status: Literal["paid"] = "paid"


class CardRequest(Schema):
    """Save a card; the same `setup_id` again is the same page."""

    setup_id: HexId


class CardCheckout(Schema):
    """Where to save it; a path is on this marketplace."""

    checkout_url: str


class CardSchema(Schema):
    """The saved card, as far as it may be shown."""

    brand: str
    last4: str
    expiry_month: int
    expiry_year: int


class RechargeChoice(Schema):
    """When to charge the saved card, how much, and how much in a calendar month (UTC) at most."""

    enabled: bool
    threshold_nanos: Annotated[int, Field(ge=0, le=TOPUP_NANOS_MAX)]
    amount_nanos: Annotated[int, Field(ge=RECHARGE_NANOS_MIN, le=TOPUP_NANOS_MAX)]
    monthly_nanos_max: Annotated[int, Field(ge=RECHARGE_NANOS_MIN, le=MONTHLY_NANOS_MAX)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.amount_nanos > self.monthly_nanos_max:
            raise ValueError("amount_nanos is above monthly_nanos_max, so nothing could be charged")
        return self


class RechargeSchema(Schema):
    """Auto-recharge as it stands; `stopped_reason`: why it was turned off by us."""

    enabled: bool
    threshold_nanos: int
    amount_nanos: int
    monthly_nanos_max: int
    charged_this_month_nanos: int
    is_charging: bool
    stopped_reason: str


class RefundRequest(Schema):
    """Give unused balance back to the card it came from; the same `refund_id` is the same."""

    refund_id: HexId
    topup_id: HexId
    amount_nanos: _Amount


class RefundSchema(Schema):
    """A refund; `failed`: the amount is in the balance again."""

    refund_id: HexId
    topup_id: HexId
    amount_nanos: int
    status: Literal["reserved", "submitted", "succeeded", "failed"]
    failure: str
    created_at_s: int


class TopupEntry(Schema):
    """One line of the history; `recharge`: the card was charged while the buyer was away."""

    topup_id: HexId
    kind: Literal["topup", "recharge"]
    status: Literal["open", "paid", "failed"]
    amount_nanos: int
    refunded_nanos: int
    failure: str
    receipt_url: str
    created_at_s: int
    paid_at_s: int | None


class HistorySchema(Schema):
    """What was paid in and what went back, newest first."""

    topups: list[TopupEntry]
    refunds: list[RefundSchema]


class EventTaken(Schema):
    """A webhook is kept and will be acted on."""

    received: Literal[True] = True
