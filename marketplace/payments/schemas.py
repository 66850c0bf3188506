"""JSON of `payments`."""

from typing import Annotated, Literal

from pydantic import Field

from marketplace.fields import HexId, Schema
from protocol.money import NANOS_PER_USD

__all__ = ["CheckoutCompleted", "TopupRequest", "TopupSchema"]

TOPUP_NANOS_MIN = NANOS_PER_USD // 100
"""One cent: below it a card's fixed fee would be all there is."""
TOPUP_NANOS_MAX = 10_000 * NANOS_PER_USD
"""What one typing mistake may cost at most."""


class TopupRequest(Schema):
    """Pay in; the same `topup_id` again is the same top-up."""

    amount_nanos: Annotated[int, Field(ge=TOPUP_NANOS_MIN, le=TOPUP_NANOS_MAX)]
    topup_id: HexId


class TopupSchema(Schema):
    """A top-up: open until the processor says that it is paid."""

    topup_id: HexId
    status: Literal["open", "paid"]
    amount_nanos: int
    checkout_url: str
    """Where to pay; a path is on this marketplace."""


class CheckoutCompleted(Schema):
    """The test processor has reported the top-up as paid."""

    status: Literal["paid"] = "paid"
