"""Money in through Stripe: customers, Checkout, saved cards and charges while the buyer is away."""

from typing import TYPE_CHECKING

from marketplace.payments.processor import NANOS_PER_CENT
from marketplace.payments.records import Card, Checkout, CheckoutState, Payment
from marketplace.payments.stripe_gateway.client import READING, StripeClient, keyed
from marketplace.payments.stripe_gateway.errors import talking
from marketplace.payments.stripe_gateway.reading import (
    ACCOUNT_KEY,
    TOPUP_KEY,
    payment_of,
    saved_card_of,
    subject_in,
    topup_in,
)
from protocol.money import Nanos

if TYPE_CHECKING:
    from stripe import PaymentIntent, SetupIntent
    from stripe.params.checkout import SessionCreateParams

__all__ = ["StripeCharging"]

PRODUCT = "Piecework balance"
PAYMENTS_PAGE = 100
PAGES_MAX = 10
"""Of one customer's payments, newest first: a thousand is more than a day's of anybody."""


class StripeCharging:
    """The half of `Processor` that takes money. `base_url`: where buyers reach the marketplace."""

    granularity_nanos: Nanos = NANOS_PER_CENT

    def __init__(self, client: StripeClient, base_url: str) -> None:
        self._client = client
        self._base_url = base_url

    def create_customer(self, account_id: str) -> str:
        """Nothing of the buyer is told but our own id; Checkout asks for the rest."""
        with talking("create a customer"):
            made = self._client.v1.customers.create(
                {"metadata": {ACCOUNT_KEY: account_id}}, keyed(f"customer-{account_id}")
            )
            return made.id

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
        """A page that is open for a day. Raises ProcessorRefused for no whole cents."""
        topup = topup_id.hex()
        params: SessionCreateParams = {
            "mode": "payment",
            "client_reference_id": topup,
            "metadata": {TOPUP_KEY: topup},
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": "usd",
                        "unit_amount": amount_nanos // NANOS_PER_CENT,
                        "product_data": {"name": PRODUCT},
                    },
                }
            ],
            "allowed_payment_method_types": ["card"],
            "payment_intent_data": {"metadata": {TOPUP_KEY: topup}},
            "success_url": f"{self._base_url}/topups/{topup}?paid=1",
            "cancel_url": f"{self._base_url}/topups/{topup}",
        }
        if customer:
            params["customer"] = customer
        if save_card:
            params["payment_intent_data"]["setup_future_usage"] = "off_session"
        if strong_authentication:
            params["payment_method_options"] = {"card": {"request_three_d_secure": "any"}}
        with talking("open a checkout"):
            made = self._client.v1.checkout.sessions.create(
                params, keyed(f"checkout-{topup}-{attempt}")
            )
            return Checkout(made.id, made.url or "", made.expires_at)

    def create_card_checkout(self, account_id: str, setup_id: bytes, customer: str) -> Checkout:
        """A page that saves a card for later charges."""
        with talking("open a page for a card"):
            made = self._client.v1.checkout.sessions.create(
                {
                    "mode": "setup",
                    "customer": customer,
                    "metadata": {ACCOUNT_KEY: account_id},
                    "allowed_payment_method_types": ["card"],
                    "setup_intent_data": {"metadata": {ACCOUNT_KEY: account_id}},
                    "success_url": f"{self._base_url}/billing?card=saved",
                    "cancel_url": f"{self._base_url}/billing",
                },
                keyed(f"setup-{setup_id.hex()}"),
            )
            return Checkout(made.id, made.url or "", made.expires_at)

    def find_checkout(self, checkout_id: str) -> CheckoutState:
        """With the payment, its receipt and card, or the card that was saved."""
        with talking("look at a checkout"):
            found = self._client.v1.checkout.sessions.retrieve(
                checkout_id,
                {"expand": ["payment_intent.latest_charge", "setup_intent.payment_method"]},
                READING,
            )
            intent, setup = found.payment_intent, found.setup_intent
            return CheckoutState(
                checkout_id=found.id,
                is_open=found.status == "open",
                topup_id=topup_in(found.metadata),
                account_id=subject_in(found.metadata, ACCOUNT_KEY),
                payment=_payment(intent),
                card=_card(setup),
            )

    def charge_card(
        self, topup_id: bytes, amount_nanos: Nanos, *, customer: str, card_id: str
    ) -> Payment:
        """Off-session and at once; a declined card is ProcessorRefused with the bank's reason."""
        topup = topup_id.hex()
        with talking("charge a saved card"):
            made = self._client.v1.payment_intents.create(
                {
                    "amount": amount_nanos // NANOS_PER_CENT,
                    "currency": "usd",
                    "customer": customer,
                    "payment_method": card_id,
                    "allowed_payment_method_types": ["card"],
                    "off_session": True,
                    "confirm": True,
                    "description": PRODUCT,
                    "metadata": {TOPUP_KEY: topup},
                    "expand": ["latest_charge"],
                },
                keyed(f"recharge-{topup}"),
            )
            return payment_of(made)

    def find_payment(self, payment_id: str) -> Payment:
        with talking("look at a payment"):
            found = self._client.v1.payment_intents.retrieve(
                payment_id, {"expand": ["latest_charge"]}, READING
            )
            return payment_of(found)

    def find_payments(self, topup_id: bytes, customer: str) -> list[Payment]:
        """Among the customer's last thousand payments, those of this top-up."""
        found: list[Payment] = []
        after = ""
        for _ in range(PAGES_MAX):
            with talking("look for payments"):
                page = self._client.v1.payment_intents.list(
                    {
                        "customer": customer,
                        "limit": PAYMENTS_PAGE,
                        "expand": ["data.latest_charge"],
                        **({"starting_after": after} if after else {}),
                    },
                    READING,
                )
                payments = [payment_of(intent) for intent in page.data]
                found += [payment for payment in payments if payment.topup_id == topup_id]
                if not page.has_more or not payments:
                    return found
                after = payments[-1].payment_id
        return found

    def forget_card(self, card_id: str) -> None:
        """Detach it; a card that is detached already is refused by Stripe, and is as good."""
        with talking("forget a card"):
            self._client.v1.payment_methods.detach(card_id, {}, keyed(f"detach-{card_id}"))


def _payment(intent: "PaymentIntent | str | None") -> Payment | None:
    return None if intent is None or isinstance(intent, str) else payment_of(intent)


def _card(setup: "SetupIntent | str | None") -> Card | None:
    if setup is None or isinstance(setup, str) or setup.status != "succeeded":
        return None
    return saved_card_of(setup.payment_method)
