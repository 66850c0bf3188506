"""Who acts on which event of the processor: this room on its own, others on what they register.

A handler gets a transaction and the name of the object, not its word: what counts is fetched. An
event that nobody registered for is done with.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ledger.database import Session
from marketplace.market import Market
from marketplace.payments import checkouts
from marketplace.payments.cards import recharging
from marketplace.payments.refunds import chargebacks
from marketplace.payments.refunds import service as refunds

__all__ = ["EventHandler", "act", "register"]


class EventHandler(Protocol):
    """`payload`: the event's object, with the connected `account` and when it was `created`."""

    def __call__(
        self,
        session: Session,
        kind: str,
        object_id: str,
        payload: Mapping[str, Any],
        *,
        now_s: int,
    ) -> None: ...


Apply = Callable[[Session], object]


_REGISTERED: dict[str, EventHandler] = {}
"""Of other rooms, by kind; filled by the composition root, where the same again is no error."""


def register(kind: str, handler: EventHandler) -> None:
    """From now on `handler` acts on events of this kind."""
    _REGISTERED[kind] = handler


def act(market: Market, kind: str, object_id: str, payload: bytes) -> Apply | None:
    """Fetch what the event is about; gives what to do in a transaction, or None for nothing.

    Called outside any transaction. Raises ProcessorError where the processor does not tell.
    """
    fetch = _FETCH.get(kind)
    if fetch is not None:
        return fetch(market, object_id)
    handler = _REGISTERED.get(kind)
    if handler is None:
        return None

    about = _object_in(payload)

    def apply(session: Session) -> None:
        handler(session, kind, object_id, about, now_s=market.clock.now_s())

    return apply


def _object_in(payload: bytes) -> Mapping[str, Any]:
    """Of a body whose signature was good."""
    event = json.loads(payload)
    about = dict(event["data"]["object"])
    if event.get("account"):
        about["account"] = event["account"]
    # when it happened: the object says only when it was made
    if isinstance(event.get("created"), int):
        about["created"] = event["created"]
    return about


def _checkout(market: Market, object_id: str) -> Apply:
    state = market.processor.find_checkout(object_id)
    return lambda session: checkouts.apply_checkout(market, session, state)


def _payment(market: Market, object_id: str) -> Apply:
    payment = market.processor.find_payment(object_id)
    return lambda session: recharging.apply_charge(session, payment, now_s=market.clock.now_s())


def _refund(market: Market, object_id: str) -> Apply:
    record = market.processor.find_refund(object_id)
    return lambda session: refunds.apply_refund(session, record, now_s=market.clock.now_s())


def _chargeback(market: Market, object_id: str) -> Apply:
    """The complaint, behind the payment that it is about: word of that may come later still."""
    record = market.processor.find_chargeback(object_id)
    payment = market.processor.find_payment(record.payment_id) if record.payment_id else None

    def apply(session: Session) -> None:
        now_s = market.clock.now_s()
        if payment is not None:
            recharging.apply_charge(session, payment, now_s=now_s)
        chargebacks.apply_chargeback(session, record, now_s=now_s)

    return apply


Fetch = Callable[[Market, str], Apply]

_FETCH: Mapping[str, Fetch] = {
    **dict.fromkeys(
        (
            "checkout.session.completed",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
            "checkout.session.expired",
        ),
        _checkout,
    ),
    **dict.fromkeys(("payment_intent.succeeded", "payment_intent.payment_failed"), _payment),
    **dict.fromkeys(("refund.created", "refund.updated", "refund.failed"), _refund),
    **dict.fromkeys(
        (
            "charge.dispute.created",
            "charge.dispute.updated",
            "charge.dispute.closed",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.funds_reinstated",
        ),
        _chargeback,
    ),
}
