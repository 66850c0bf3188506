"""Transfers to connected accounts, their reversals, and the balance they are paid from."""

from typing import Any

from tests.fakestripe.api import Route
from tests.fakestripe.errors import Refused, invalid
from tests.fakestripe.forms import integer, required
from tests.fakestripe.store import Object, Store

__all__ = ["ROUTES", "balance_of"]


def create(store: Store, params: dict[str, Any]) -> Object:
    """At once and from what is available, or a refusal that is kept under the key."""
    amount = integer(required(params, "amount"), "amount", minimum=1)
    if required(params, "currency") != "usd":
        raise invalid("Only usd is spoken here.", param="currency")
    destination = required(params, "destination")
    account = store.table("v2.core.account").get(destination)
    if account is None:
        raise invalid(
            f"No such destination: '{destination}'", code="resource_missing", param="destination"
        )
    if account["_transfers"] != "active":
        raise Refused(
            400,
            "invalid_request_error",
            "insufficient_capabilities_for_transfer",
            "Your destination account needs to have transfers enabled.",
            stored=True,
        )
    if amount > store.available_cents:
        raise Refused(
            400,
            "invalid_request_error",
            "balance_insufficient",
            "You have insufficient available funds in your Stripe account.",
            stored=True,
        )
    made = store.add(
        "transfer",
        "tr",
        amount=amount,
        amount_reversed=0,
        balance_transaction=None,
        currency="usd",
        description=params.get("description"),
        destination=destination,
        destination_payment=store.new_id("py"),
        metadata=params.get("metadata", {}),
        reversals={"object": "list", "data": [], "has_more": False, "url": ""},
        reversed=False,
        source_transaction=None,
        source_type="card",
        transfer_group=params.get("transfer_group"),
    )
    made["balance_transaction"] = store.move("transfer", -amount, source=made["id"])["id"]
    account["_received"] += amount
    if group := made["transfer_group"]:
        store.group(group, made["id"])
    store.emit("transfer.created", made, "")
    return made


def show(store: Store, params: dict[str, Any], transfer_id: str) -> Object:
    return store.get("transfer", transfer_id)


def page(store: Store, params: dict[str, Any]) -> Object:
    table = store.table("transfer")
    group = params.get("transfer_group")
    items = [table[i] for i in store.group(group)] if group else list(table.values())
    if destination := params.get("destination"):
        items = [item for item in items if item["destination"] == destination]
    return store.page("/v1/transfers", items, params)


def reverse(store: Store, params: dict[str, Any], transfer_id: str) -> Object:
    """All that is left of it, or `amount`."""
    transfer = store.get("transfer", transfer_id)
    left = transfer["amount"] - transfer["amount_reversed"]
    amount = integer(params.get("amount", left), "amount", minimum=1)
    if amount > left:
        raise invalid(f"Only {left} can be reversed.", param="amount")
    made = store.add(
        "transfer_reversal",
        "trr",
        amount=amount,
        balance_transaction=None,
        currency="usd",
        destination_payment_refund=None,
        metadata=params.get("metadata", {}),
        source_refund=None,
        transfer=transfer_id,
    )
    made["balance_transaction"] = store.move("transfer_refund", amount, source=made["id"])["id"]
    transfer["amount_reversed"] += amount
    transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
    transfer["reversals"]["data"].insert(0, made)
    store.get("v2.core.account", transfer["destination"])["_received"] -= amount
    store.emit("transfer.reversed", transfer, "")
    return made


def balance_of(store: Store, params: dict[str, Any]) -> Object:
    """Ours; available may be below zero."""
    return {
        "object": "balance",
        "livemode": False,
        "available": [_amount(store.available_cents)],
        "pending": [_amount(store.pending_cents)],
    }


def transactions(store: Store, params: dict[str, Any]) -> Object:
    items = list(store.table("balance_transaction").values())
    for name in ("type", "source"):
        if wanted := params.get(name):
            items = [item for item in items if item[name] == wanted]
    return store.page("/v1/balance_transactions", items, params)


def transaction(store: Store, params: dict[str, Any], txn_id: str) -> Object:
    return store.get("balance_transaction", txn_id)


def _amount(cents: int) -> Object:
    return {"amount": cents, "currency": "usd", "source_types": {"card": cents}}


ROUTES = (
    Route("POST", "/v1/transfers", create),
    Route("GET", "/v1/transfers", page),
    Route("GET", "/v1/transfers/{}", show),
    Route("POST", "/v1/transfers/{}/reversals", reverse),
    Route("GET", "/v1/balance", balance_of),
    Route("GET", "/v1/balance_transactions", transactions),
    Route("GET", "/v1/balance_transactions/{}", transaction),
)
