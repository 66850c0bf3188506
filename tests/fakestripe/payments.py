"""Customers, cards, payment intents and the charges they make."""

from typing import Any

from tests.fakestripe.api import Route
from tests.fakestripe.errors import Refused, invalid
from tests.fakestripe.forms import integer, required, truth
from tests.fakestripe.store import AVAILABLE_AFTER_S, Object, Store

__all__ = ["ROUTES", "fee_of", "new_card", "pay"]

FEE_BASIS_POINTS = 290
FEE_FIXED_CENTS = 30
"""What a card payment costs in the United States."""


def fee_of(cents: int) -> int:
    """Rounded half up, as Stripe rounds."""
    return (cents * FEE_BASIS_POINTS + 5_000) // 10_000 + FEE_FIXED_CENTS


def new_customer(store: Store, params: dict[str, Any]) -> Object:
    return store.add(
        "customer", "cus", email=params.get("email"), metadata=params.get("metadata", {})
    )


def new_card(store: Store, customer: str | None, number: str) -> Object:
    """A payment method for a card; the fingerprint follows from the number alone."""
    card = {
        "brand": "visa",
        "country": "US",
        "exp_month": 12,
        "exp_year": 2099,
        "fingerprint": f"fp_{number}",
        "funding": "credit",
        "last4": number[-4:],
        "_number": number,
    }
    return store.add("payment_method", "pm", card=card, customer=customer, metadata={}, type="card")


def detach(store: Store, params: dict[str, Any], method_id: str) -> Object:
    method = store.get("payment_method", method_id)
    if method["customer"] is None:
        raise invalid("The payment method is not attached to a customer.")
    method["customer"] = None
    return method


def new_intent(
    store: Store, amount: int, customer: str | None, metadata: Any, **fields: Any
) -> Object:
    return store.add(
        "payment_intent",
        "pi",
        amount=amount,
        amount_received=0,
        currency="usd",
        customer=customer,
        last_payment_error=None,
        latest_charge=None,
        metadata=metadata or {},
        payment_method=None,
        payment_method_types=["card"],
        setup_future_usage=fields.pop("setup_future_usage", None),
        status="requires_payment_method",
        **fields,
    )


def create(store: Store, params: dict[str, Any]) -> Object:
    """Off-session and confirmed: paid or declined at once."""
    amount = integer(required(params, "amount"), "amount", minimum=50)
    customer = store.get("customer", required(params, "customer"))["id"]
    method = store.get("payment_method", required(params, "payment_method"))
    if not (truth(params.get("confirm")) and truth(params.get("off_session"))):
        raise invalid("Only confirmed off-session payments are known here.")
    if method["customer"] != customer:
        raise invalid("The payment method does not belong to the customer.")
    metadata = params.get("metadata")
    intent = new_intent(store, amount, customer, metadata, description=params.get("description"))
    pay(store, intent, method)
    if error := intent["last_payment_error"]:
        raise Refused(
            402,
            "card_error",
            error["code"],
            error["message"],
            stored=True,
            decline_code=error["decline_code"],
            payment_intent=intent,
        )
    return intent


def pay(store: Store, intent: Object, method: Object, *, three_d_secure: bool = False) -> None:
    """Charge the card: numbers that end in 0002 are declined, in 3184 want the buyer there."""
    number = method["card"]["_number"]
    intent["payment_method"] = method["id"]
    declined = {"0002": "generic_decline", "9995": "insufficient_funds"}.get(number[-4:], "")
    if number.endswith("3184") and not three_d_secure:
        declined = "authentication_required"
    charge = store.add(
        "charge",
        "ch",
        amount=intent["amount"],
        amount_refunded=0,
        balance_transaction=None,
        currency="usd",
        customer=intent["customer"],
        disputed=False,
        metadata=dict(intent["metadata"]),
        paid=not declined,
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details={"type": "card", "card": _shown(method["card"])},
        receipt_url=None,
        status="failed" if declined else "succeeded",
    )
    intent["latest_charge"] = charge["id"]
    if declined:
        code = declined if declined == "authentication_required" else "card_declined"
        intent["last_payment_error"] = {
            "code": code,
            "decline_code": declined,
            "message": "Your card was declined.",
            "type": "card_error",
        }
        store.emit("payment_intent.payment_failed", intent, "")
        return
    charge["receipt_url"] = f"https://pay.stripe.test/receipts/{charge['id']}"
    intent.update(status="succeeded", amount_received=intent["amount"], last_payment_error=None)
    transaction = store.move(
        "charge",
        intent["amount"],
        fee=fee_of(intent["amount"]),
        source=charge["id"],
        available_after_s=AVAILABLE_AFTER_S,
    )
    charge["balance_transaction"] = transaction["id"]
    store.emit("payment_intent.succeeded", intent, "")


def show(store: Store, params: dict[str, Any], intent_id: str) -> Object:
    return store.get("payment_intent", intent_id)


def page(store: Store, params: dict[str, Any]) -> Object:
    items = list(store.table("payment_intent").values())
    if customer := params.get("customer"):
        items = [item for item in items if item["customer"] == customer]
    return store.page("/v1/payment_intents", items, params)


def _shown(card: Object) -> Object:
    return {key: value for key, value in card.items() if not key.startswith("_")}


ROUTES = (
    Route("POST", "/v1/customers", new_customer),
    Route("POST", "/v1/payment_methods/{}/detach", detach),
    Route("POST", "/v1/payment_intents", create),
    Route("GET", "/v1/payment_intents", page),
    Route("GET", "/v1/payment_intents/{}", show),
)
