"""Checkout sessions, and the buyer who comes to their pages: `complete` and `expire`."""

from typing import Any

from tests.fakestripe.api import Route
from tests.fakestripe.errors import invalid
from tests.fakestripe.forms import integer, required
from tests.fakestripe.payments import new_card, new_intent, pay
from tests.fakestripe.store import Object, Store

__all__ = ["ROUTES", "complete", "expire_old"]

LIFE_S = 24 * 3600


def create(store: Store, params: dict[str, Any]) -> Object:
    mode = required(params, "mode")
    required(params, "success_url")
    if customer := params.get("customer"):
        store.get("customer", customer)
    amount = None
    if mode == "payment":
        amount = sum(_cost(item) for item in required(params, "line_items"))
    elif mode != "setup":
        raise invalid("Only payment and setup are known here.", param="mode")
    data = params.get("payment_intent_data", params.get("setup_intent_data", {}))
    card = params.get("payment_method_options", {}).get("card", {})
    made = store.add(
        "checkout.session",
        "cs",
        amount_total=amount,
        client_reference_id=params.get("client_reference_id"),
        currency="usd",
        customer=customer,
        expires_at=store.clock.now_s() + LIFE_S,
        metadata=params.get("metadata", {}),
        mode=mode,
        payment_intent=None,
        payment_status="unpaid",
        setup_intent=None,
        status="open",
        success_url=params["success_url"],
        url=None,
        _data=data,
        _three_d_secure=card.get("request_three_d_secure", "automatic"),
    )
    made["url"] = f"https://checkout.stripe.test/pay/{made['id']}"
    return made


def _cost(item: Object) -> int:
    price = required(item, "price_data")
    if required(price, "currency") != "usd":
        raise invalid("Only usd is spoken here.", param="currency")
    required(required(price, "product_data"), "name")
    count = integer(required(item, "quantity"), "quantity", minimum=1)
    return count * integer(required(price, "unit_amount"), "unit_amount", minimum=50)


def show(store: Store, params: dict[str, Any], session_id: str) -> Object:
    expire_old(store)
    return store.get("checkout.session", session_id)


def complete(store: Store, session_id: str, number: str) -> Object:
    """The buyer fills in a card; gives the session, still open where the card was declined."""
    expire_old(store)
    session = store.get("checkout.session", session_id)
    assert session["status"] == "open", f"the page says that it is {session['status']}"
    data = session["_data"]
    reusable = session["mode"] == "setup" or data.get("setup_future_usage") == "off_session"
    customer = session["customer"] if reusable else None
    method = new_card(store, customer, number)
    if session["mode"] == "setup":
        setup = store.add(
            "setup_intent",
            "seti",
            customer=customer,
            metadata=data.get("metadata", {}),
            payment_method=method["id"],
            status="succeeded",
        )
        session.update(
            setup_intent=setup["id"], payment_status="no_payment_required", status="complete"
        )
        store.emit("checkout.session.completed", session, "")
        return session
    if session["payment_intent"] is None:
        intent = new_intent(
            store,
            session["amount_total"],
            session["customer"],
            data.get("metadata"),
            setup_future_usage=data.get("setup_future_usage"),
        )
        session["payment_intent"] = intent["id"]
    intent = store.get("payment_intent", session["payment_intent"])
    pay(store, intent, method, three_d_secure=True)
    if intent["status"] == "succeeded":
        session.update(payment_status="paid", status="complete")
        store.emit("checkout.session.completed", session, "")
    return session


def expire_old(store: Store) -> None:
    """What nobody completed within a day."""
    now_s = store.clock.now_s()
    for session in store.table("checkout.session").values():
        if session["status"] == "open" and session["expires_at"] <= now_s:
            session["status"] = "expired"
            store.emit("checkout.session.expired", session, "")


ROUTES = (
    Route("POST", "/v1/checkout/sessions", create),
    Route("GET", "/v1/checkout/sessions/{}", show),
)
