"""The built-in test processor: checkouts that anybody can complete, for no money at all.

It lets a fresh marketplace be tried without an account anywhere. It is labelled `test` wherever it
shows, and the command line warns that it is on.
"""

from marketplace.payments.processor import PaymentEvent
from protocol.money import Nanos

__all__ = ["SimulatedProcessor"]


class SimulatedProcessor:
    """A `Processor` without money. Holds nothing: both answers follow from the top-up's id."""

    name = "test"

    def create_checkout(self, topup_id: bytes, amount_nanos: Nanos) -> str:
        """The path to POST to, on the marketplace itself."""
        return f"/v1/test-processor/checkouts/{topup_id.hex()}/complete"

    def complete(self, topup_id: bytes, amount_nanos: Nanos) -> PaymentEvent:
        """What a real processor would report after the buyer has paid."""
        return PaymentEvent(f"test_{topup_id.hex()}", topup_id, amount_nanos)
