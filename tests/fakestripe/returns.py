"""Refunds, and what card holders' banks take back: disputes."""

from typing import Any

from tests.fakestripe.api import Route
from tests.fakestripe.errors import invalid
from tests.fakestripe.forms import integer, required
from tests.fakestripe.store import Object, Store

__all__ = ["ROUTES", "close_dispute", "fail_refund", "open_dispute", "pay_waiting_refunds"]

DISPUTE_FEE_CENTS = 1_500


def create(store: Store, params: dict[str, Any]) -> Object:
    """From what is available; where that is too little it waits, as Stripe's does."""
    intent = store.get("payment_intent", required(params, "payment_intent"))
    charge = store.table("charge").get(intent["latest_charge"] or "")
    if charge is None or not charge["paid"]:
        raise invalid("The payment was never paid.", code="charge_not_refundable")
    left = charge["amount"] - charge["amount_refunded"]
    amount = integer(params.get("amount", left), "amount", minimum=1)
    if charge["disputed"]:
        raise invalid("The charge is disputed.", code="charge_disputed")
    if amount > left:
        code = "charge_already_refunded" if not left else "amount_too_large"
        raise invalid(f"Refund amount ({amount}) is greater than unrefunded {left}.", code=code)
    made = store.add(
        "refund",
        "re",
        amount=amount,
        balance_transaction=None,
        charge=charge["id"],
        currency="usd",
        failure_reason=None,
        metadata=params.get("metadata", {}),
        payment_intent=intent["id"],
        reason=params.get("reason"),
        status="pending",
    )
    charge["amount_refunded"] += amount
    store.waiting_refunds.append(made["id"])
    pay_waiting_refunds(store)
    store.emit("refund.created", made, "")
    return made


def pay_waiting_refunds(store: Store) -> None:
    """In their order, as far as the balance goes."""
    while store.waiting_refunds:
        refund = store.get("refund", store.waiting_refunds[0])
        if refund["amount"] > store.available_cents:
            return
        store.waiting_refunds.pop(0)
        made = store.move("refund", -refund["amount"], source=refund["id"])
        refund.update(status="succeeded", balance_transaction=made["id"])
        store.emit("refund.updated", refund, "")


def fail_refund(store: Store, refund_id: str) -> None:
    """The card's bank does not take it: the money comes back to us."""
    refund = store.get("refund", refund_id)
    if refund["status"] == "succeeded":
        store.move("refund_failure", refund["amount"], source=refund_id)
    else:
        store.waiting_refunds.remove(refund_id)
    refund.update(status="failed", failure_reason="expired_or_canceled_card")
    store.get("charge", refund["charge"])["amount_refunded"] -= refund["amount"]
    store.emit("refund.failed", refund, "")


def show(store: Store, params: dict[str, Any], refund_id: str) -> Object:
    pay_waiting_refunds(store)
    return store.get("refund", refund_id)


def page(store: Store, params: dict[str, Any]) -> Object:
    pay_waiting_refunds(store)
    items = list(store.table("refund").values())
    if intent := params.get("payment_intent"):
        items = [item for item in items if item["payment_intent"] == intent]
    return store.page("/v1/refunds", items, params)


def open_dispute(store: Store, intent_id: str, cents: int | None = None) -> Object:
    """The card holder's bank takes the money back, and Stripe a fee."""
    intent = store.get("payment_intent", intent_id)
    charge = store.get("charge", intent["latest_charge"])
    amount = charge["amount"] if cents is None else cents
    charge["disputed"] = True
    made = store.add(
        "dispute",
        "dp",
        amount=amount,
        balance_transactions=[],
        charge=charge["id"],
        currency="usd",
        metadata={},
        payment_intent=intent_id,
        reason="fraudulent",
        status="needs_response",
    )
    taken = store.move("adjustment", -amount, fee=DISPUTE_FEE_CENTS, source=made["id"])
    made["balance_transactions"] = [dict(taken)]
    store.emit("charge.dispute.created", made, "")
    return made


def close_dispute(store: Store, dispute_id: str, *, won: bool) -> None:
    """The bank has decided; what is won comes back, without the fee."""
    dispute = store.get("dispute", dispute_id)
    dispute["status"] = "won" if won else "lost"
    if won:
        back = store.move("adjustment", dispute["amount"], source=dispute_id)
        dispute["balance_transactions"].append(dict(back))
        store.get("charge", dispute["charge"])["disputed"] = False
    store.emit("charge.dispute.closed", dispute, "")


def dispute(store: Store, params: dict[str, Any], dispute_id: str) -> Object:
    return store.get("dispute", dispute_id)


ROUTES = (
    Route("POST", "/v1/refunds", create),
    Route("GET", "/v1/refunds", page),
    Route("GET", "/v1/refunds/{}", show),
    Route("GET", "/v1/disputes/{}", dispute),
)
