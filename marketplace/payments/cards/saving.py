"""The one card of an account: saved at the processor, shown here by its last digits, forgotten."""

import logging

from ledger.database import Session
from marketplace.market import Market
from marketplace.payments.cards.repository import BillingRepository
from marketplace.payments.errors import asking
from marketplace.payments.models import BillingRow
from marketplace.payments.processor import ProcessorRefused
from marketplace.payments.records import Card, Checkout
from marketplace.standing import service as standing

__all__ = ["card_of", "customer_of", "forget", "keep_card", "open_page"]

log = logging.getLogger(__name__)

_NO_CARD: dict[str, str | int | bool] = {
    "card_id": "",
    "card_brand": "",
    "card_last4": "",
    "card_expiry_month": 0,
    "card_expiry_year": 0,
    "recharge_enabled": False,
}


def customer_of(market: Market, account_id: str) -> str:
    """The account's customer at the processor, made on first use. Raises ProcessorUnavailable."""
    with market.database.reading() as session:
        row = BillingRepository(session).get(account_id)
    if row is not None and row.customer:
        return row.customer
    with asking():
        customer = market.processor.create_customer(account_id)
    with market.database.transaction() as session:
        repository = BillingRepository(session)
        locked = repository.lock(account_id)
        # whoever was first decides, for a card belongs to one customer
        if not locked.customer:
            repository.set(account_id, {"customer": customer})
            return customer
        return locked.customer


def open_page(market: Market, account_id: str, setup_id: bytes) -> Checkout:
    """Where the buyer saves a card; the same again for the same id within a day."""
    customer = customer_of(market, account_id)
    with asking():
        checkout = market.processor.create_card_checkout(account_id, setup_id, customer)
    with market.database.transaction() as session:
        repository = BillingRepository(session)
        repository.lock(account_id)
        repository.set(account_id, {"setup_checkout_id": checkout.checkout_id})
    return checkout


def keep_card(session: Session, account_id: str, card: Card, *, now_s: int) -> None:
    """From now on this card; the same again changes nothing. A new card may be charged again."""
    repository = BillingRepository(session)
    row = repository.lock(account_id)
    if row.card_id == card.card_id:
        return
    repository.set(
        account_id,
        {
            "card_id": card.card_id,
            "card_brand": card.brand[:32],
            "card_last4": card.last4[:4],
            "card_expiry_month": card.expiry_month,
            "card_expiry_year": card.expiry_year,
            "changed_at_s": now_s,
            "stopped_reason": "",
        },
    )
    if card.fingerprint:
        standing.note_fingerprint(session, account_id, "card", card.fingerprint, now_s=now_s)


def card_of(session: Session, account_id: str) -> BillingRow | None:
    """The account's row where a card is saved."""
    row = BillingRepository(session).get(account_id)
    return row if row is not None and row.card_id else None


def forget(market: Market, account_id: str) -> None:
    """No card any more, here first; auto-recharge is off with it. Again is no error."""
    with market.database.transaction() as session:
        repository = BillingRepository(session)
        card_id = repository.lock(account_id).card_id
        repository.set(account_id, _NO_CARD | {"changed_at_s": market.clock.now_s()})
    if not card_id:
        return
    with asking():
        try:
            market.processor.forget_card(card_id)
        except ProcessorRefused as error:
            # it is gone there already, which is what was asked
            log.info("the card of %s is not at the processor: %s", account_id, error.code)
