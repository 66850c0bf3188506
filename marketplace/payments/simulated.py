"""The built-in test processor: checkouts that anybody can complete, for no money at all.

It lets a fresh marketplace be tried without an account anywhere. It is labelled `test` wherever it
shows, and the command line warns that it is on. A payout through it pays nobody, and a refund gives
nothing back but the balance here.
"""

import time
from collections.abc import Iterator

from marketplace.payments.processor import (
    NANOS_PER_CENT,
    EventUnverified,
    ProcessorRefused,
    RecipientState,
    TransferRecord,
)
from marketplace.payments.records import (
    Card,
    ChargebackRecord,
    Checkout,
    CheckoutState,
    Payment,
    PaymentEvent,
    PaymentStatus,
    ProcessorEvent,
    ProcessorTransaction,
    RefundRecord,
)
from protocol.money import Nanos

__all__ = ["SimulatedProcessor"]

_RECIPIENT = "test_recipient_"
_PAYMENT = "test_payment_"
_SETUP = "test_setup_"
_BALANCE_CENTS = 10**12
"""Nobody's money, so there is always enough."""
PAGES = "/v1/test-processor"


class SimulatedProcessor:
    """A `Processor` and `PayoutProcessor` without money: every answer follows from its arguments.

    It remembers nothing, so looking something up finds nothing: sending again is harmless here, for
    the transfer of a payout, or the payment of a top-up, is always the same.
    """

    name = "test"
    granularity_nanos: Nanos = 1

    def create_customer(self, account_id: str) -> str:
        """A name, for a customer that does not exist."""
        return f"test_customer_{account_id}"

    def create_checkout(
        self,
        topup_id: bytes,
        amount_nanos: Nanos,
        *,
        customer: str = "",
        save_card: bool = False,
        strong_authentication: bool = False,
        attempt: int = 1,
    ) -> Checkout:
        """The path to POST to, on the marketplace itself."""
        path = f"{PAGES}/checkouts/{topup_id.hex()}/complete"
        return Checkout(f"test_checkout_{topup_id.hex()}", path)

    def create_card_checkout(self, account_id: str, setup_id: bytes, customer: str) -> Checkout:
        """The path to POST to, to save a card that does not exist."""
        return Checkout(f"{_SETUP}{setup_id.hex()}", f"{PAGES}/cards/{setup_id.hex()}/complete")

    def complete(self, topup_id: bytes, amount_nanos: Nanos) -> PaymentEvent:
        """What a real processor would report after the buyer has paid."""
        payment_id = f"{_PAYMENT}{topup_id.hex()}"
        return PaymentEvent(f"test_{topup_id.hex()}", topup_id, amount_nanos, payment_id)

    def saved_card(self, setup_id: bytes) -> Card:
        """The card that every test checkout saves."""
        return Card(f"test_card_{setup_id.hex()}", "test", "4242", 12, 2099)

    def find_checkout(self, checkout_id: str) -> CheckoutState:
        """Always open: only its own page completes it."""
        return CheckoutState(checkout_id, is_open=True)

    def charge_card(
        self, topup_id: bytes, amount_nanos: Nanos, *, customer: str, card_id: str
    ) -> Payment:
        """Paid, on paper."""
        cents = amount_nanos // NANOS_PER_CENT
        payment_id = f"{_PAYMENT}{topup_id.hex()}"
        return Payment(payment_id, PaymentStatus.SUCCEEDED, cents, topup_id)

    def find_payment(self, payment_id: str) -> Payment:
        """None is remembered; raises ProcessorRefused."""
        raise _forgotten(payment_id)

    def find_payments(self, topup_id: bytes, customer: str) -> list[Payment]:
        """None: nothing is remembered."""
        return []

    def forget_card(self, card_id: str) -> None:
        """There is none."""

    def create_refund(self, refund_id: bytes, payment_id: str, amount_cents: int) -> RefundRecord:
        """Given back, on paper."""
        processor_id = f"test_refund_{refund_id.hex()}"
        status = PaymentStatus.SUCCEEDED
        return RefundRecord(processor_id, refund_id.hex(), payment_id, amount_cents, status)

    def find_refund(self, processor_id: str) -> RefundRecord:
        """None is remembered; raises ProcessorRefused."""
        raise _forgotten(processor_id)

    def find_refunds(self, payment_id: str) -> list[RefundRecord]:
        """None: nothing is remembered."""
        return []

    def find_chargeback(self, dispute_id: str) -> ChargebackRecord:
        """Nobody complains; raises ProcessorRefused."""
        raise _forgotten(dispute_id)

    def transactions(self, since_s: int) -> Iterator[ProcessorTransaction]:
        """None: there is no balance to change."""
        return iter(())

    def balance_cents(self) -> tuple[int, int]:
        """Nothing is there."""
        return 0, 0

    def read_event(self, payload: bytes, signature: str, *, now_s: int) -> ProcessorEvent:
        """The test processor sends none."""
        raise EventUnverified("The test processor sends no events.")

    def create_recipient(self, account_id: str, email: str, country: str) -> str:
        """A name for the account's purse in that country, which does not exist."""
        return f"{_RECIPIENT}{account_id}_{country}"

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


def _forgotten(object_id: str) -> ProcessorRefused:
    return ProcessorRefused("resource_missing", f"The test processor has no '{object_id[:64]}'.")
