"""The built-in test processor: checkouts that anybody can complete, for no money at all.

It lets a fresh marketplace be tried without an account anywhere. It is labelled `test` wherever it
shows, and the command line warns that it is on. A payout through it pays nobody.
"""

import time

from marketplace.payments.processor import PaymentEvent, RecipientState, TransferRecord
from protocol.money import Nanos

__all__ = ["SimulatedProcessor"]

_PREFIX = "test_recipient_"
_BALANCE_CENTS = 10**12
"""Nobody's money, so there is always enough."""


class SimulatedProcessor:
    """A `Processor` and `PayoutProcessor` without money: every answer follows from its arguments.

    It remembers no transfer, so `find_transfers` finds none: sending again is harmless here, for
    the transfer of a payout is always the same.
    """

    name = "test"

    def create_checkout(self, topup_id: bytes, amount_nanos: Nanos) -> str:
        """The path to POST to, on the marketplace itself."""
        return f"/v1/test-processor/checkouts/{topup_id.hex()}/complete"

    def complete(self, topup_id: bytes, amount_nanos: Nanos) -> PaymentEvent:
        """What a real processor would report after the buyer has paid."""
        return PaymentEvent(f"test_{topup_id.hex()}", topup_id, amount_nanos)

    def create_recipient(self, account_id: str, email: str) -> str:
        """A name for the account's purse, which does not exist."""
        return f"{_PREFIX}{account_id}"

    def onboarding_url(self, recipient: str) -> str:
        """Nothing is asked, so there is no page."""
        return ""

    def recipient_state(self, recipient: str) -> RecipientState:
        """Always ready."""
        return RecipientState(recipient, payouts_enabled=True)

    def create_transfer(
        self, payout_id: str, amount_cents: int, recipient: str, *, attempt: int
    ) -> TransferRecord:
        """Done, on paper."""
        return TransferRecord(
            f"test_transfer_{payout_id}", payout_id, recipient, amount_cents, 0, int(time.time())
        )

    def find_transfers(self, payout_id: str) -> list[TransferRecord]:
        """None: nothing is remembered."""
        return []

    def available_cents(self) -> int:
        """Always enough."""
        return _BALANCE_CENTS
