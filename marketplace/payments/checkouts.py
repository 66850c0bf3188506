"""A top-up's page at the processor: opened, opened again, and looked at when the buyer comes back.

The processor is asked between transactions, never inside one. What was asked and not answered is
asked again under the next attempt's key: nobody has seen the first page, so nobody can pay there.
"""

from dataclasses import dataclass

from ledger.database import Session
from ledger.failpoint import reach
from marketplace.market import Market
from marketplace.payments import service
from marketplace.payments.cards import saving
from marketplace.payments.errors import asking
from marketplace.payments.processor import OutcomeUnknown
from marketplace.payments.records import Checkout, CheckoutState
from marketplace.payments.repository import TopupRepository
from marketplace.payments.risk import wants_authentication
from marketplace.payments.schemas import TopupRequest, TopupSchema

__all__ = ["apply_checkout", "open_page", "refresh"]


@dataclass(frozen=True, slots=True)
class _Page:
    """What is asked of the processor."""

    topup: TopupSchema
    attempt: int
    expires_at_s: int
    wants_authentication: bool


def open_page(market: Market, account_id: str, request: TopupRequest) -> TopupSchema:
    """The top-up with a page where it can be paid; the same again while that is open.

    Raises AmountNotWhole, TopupLimit, Conflict, CardDeclined or ProcessorUnavailable.
    """
    page = _begin(market, account_id, request)
    if page.topup.status == "paid":
        return page.topup
    if page.topup.checkout_url and not _is_over(page.expires_at_s, market.clock.now_s()):
        return page.topup
    attempt = page.attempt
    if page.topup.checkout_url:
        # the page has closed; somebody may have paid at the last moment
        topup = refresh(market, account_id, request.topup_id)
        if topup.status == "paid":
            return topup
        attempt = _next_attempt(market, request.topup_id, attempt)
    customer = saving.customer_of(market, account_id) if request.save_card else ""
    reach("payments.checkout.before")
    checkout = _ask(market, request, customer, page, attempt)
    reach("payments.checkout.after")
    with market.database.transaction() as session:
        service.set_checkout(session, request.topup_id, checkout)
        return service.find(session, account_id, request.topup_id)


def refresh(market: Market, account_id: str, topup_id: bytes) -> TopupSchema:
    """Ask the processor what became of a top-up, as the buyer's return does; credits it once."""
    with market.database.reading() as session:
        topup = service.find(session, account_id, topup_id)
        payment = TopupRepository(session).payment(topup_id)
    if topup.status == "paid" or not payment.checkout_id:
        return topup
    with asking():
        state = market.processor.find_checkout(payment.checkout_id)
    with market.database.transaction() as session:
        apply_checkout(market, session, state)
        return service.find(session, account_id, topup_id)


def apply_checkout(market: Market, session: Session, state: CheckoutState) -> None:
    """Credit what was paid there, or keep the card that was saved there."""
    now_s = market.clock.now_s()
    if state.payment is not None:
        service.apply_payment(session, state.payment, now_s=now_s)
    elif state.card is not None and state.account_id:
        saving.keep_card(session, state.account_id, state.card, now_s=now_s)


def _begin(market: Market, account_id: str, request: TopupRequest) -> _Page:
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        repository = TopupRepository(session)
        past = service.admit(
            session, market.processor, account_id, request.topup_id, request.amount_nanos,
            now_s=now_s,
        )  # fmt: skip
        topup = service.open_topup(
            session, account_id, request.topup_id, request.amount_nanos, now_s=now_s
        )
        payment = repository.payment(request.topup_id)
        return _Page(topup, payment.attempt, payment.expires_at_s, wants_authentication(past))


def _ask(
    market: Market, request: TopupRequest, customer: str, page: _Page, attempt: int
) -> Checkout:
    """One checkout; the attempt is over where nobody can say what became of it."""
    with asking():
        try:
            return market.processor.create_checkout(
                request.topup_id,
                request.amount_nanos,
                customer=customer,
                save_card=request.save_card,
                strong_authentication=page.wants_authentication,
                attempt=attempt,
            )
        except OutcomeUnknown:
            _next_attempt(market, request.topup_id, attempt)
            raise


def _next_attempt(market: Market, topup_id: bytes, attempt: int) -> int:
    with market.database.transaction() as session:
        TopupRepository(session).next_attempt(topup_id, attempt)
    return attempt + 1


def _is_over(expires_at_s: int, now_s: int) -> bool:
    return 0 < expires_at_s <= now_s
