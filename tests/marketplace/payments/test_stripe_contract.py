"""The fake and the client's own types agree: what we send, and what the fake answers.

The types of the `stripe` package are made from Stripe's OpenAPI description. `mypy` holds our calls
to them; here the fake is held to them, so that a test against it means something.
"""

import typing
from collections.abc import Mapping

import stripe
import typing_extensions
from stripe.params import (
    AccountListExternalAccountsParams,
    BalanceTransactionListParams,
    CustomerCreateParams,
    PaymentIntentCreateParams,
    PaymentIntentListParams,
    PaymentIntentRetrieveParams,
    RefundCreateParams,
    RefundListParams,
    TransferCreateParams,
    TransferListParams,
)
from stripe.params.checkout import SessionCreateParams, SessionRetrieveParams
from stripe.params.v2.core import (
    AccountCreateParams,
    AccountLinkCreateParams,
    AccountRetrieveParams,
)

from tests.marketplace.payments.test_stripe_cards import choose, save_card
from tests.marketplace.payments.test_stripe_refunds import ask
from tests.marketplace.world import DOLLAR

PARAMS = {
    "POST /v1/transfers": TransferCreateParams,
    "GET /v1/transfers": TransferListParams,
    "GET /v1/balance_transactions": BalanceTransactionListParams,
    "POST /v2/core/accounts": AccountCreateParams,
    "GET /v2/core/accounts/([^/]+)": AccountRetrieveParams,
    "POST /v2/core/account_links": AccountLinkCreateParams,
    "GET /v1/accounts/([^/]+)/external_accounts": AccountListExternalAccountsParams,
    "POST /v1/customers": CustomerCreateParams,
    "POST /v1/payment_intents": PaymentIntentCreateParams,
    "GET /v1/payment_intents": PaymentIntentListParams,
    "GET /v1/payment_intents/([^/]+)": PaymentIntentRetrieveParams,
    "POST /v1/checkout/sessions": SessionCreateParams,
    "GET /v1/checkout/sessions/([^/]+)": SessionRetrieveParams,
    "POST /v1/refunds": RefundCreateParams,
    "GET /v1/refunds": RefundListParams,
}
NO_PARAMS = {
    "GET /v1/balance",
    "GET /v1/disputes/([^/]+)",
    "POST /v1/payment_methods/([^/]+)/detach",
}
ELSEWHERE = {"StripeContext": stripe.StripeContext, "Mapping": Mapping}
"""Named in the types, and not in the module of each."""
OBJECTS = {
    "transfer": stripe.Transfer,
    "balance_transaction": stripe.BalanceTransaction,
    "v2.core.account": stripe.v2.core.Account,
    "customer": stripe.Customer,
    "payment_method": stripe.PaymentMethod,
    "payment_intent": stripe.PaymentIntent,
    "charge": stripe.Charge,
    "checkout.session": stripe.checkout.Session,
    "setup_intent": stripe.SetupIntent,
    "refund": stripe.Refund,
    "dispute": stripe.Dispute,
    "event": stripe.Event,
}


def typed_dicts(hint):
    """Every TypedDict inside a type."""
    if typing_extensions.is_typeddict(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from typed_dicts(part)


def is_known(hint, path):
    """Whether some TypedDict in `hint` has this field, all the way down."""
    if not path:
        return True
    for shape in typed_dicts(hint):
        hints = typing_extensions.get_type_hints(shape, localns=ELSEWHERE)
        if path[0] in hints and (path[1:] == [] or is_known(hints[path[0]], path[1:])):
            return True
        if path[0] in hints and path[0].endswith("metadata"):
            return True
    return False


async def everything(shop):
    """Every request we ever make."""
    stripe_side, processor = shop.stripe, shop.world.market.processor
    buyer = await shop.world.buyer()
    stripe_side.fund(100_000)
    await save_card(shop, buyer)
    await choose(shop, buyer)
    await shop.work("recharge")
    topup_id = await shop.top_up(buyer, save_card=True)
    intent = shop.payment_of(topup_id)["id"]
    customer = shop.payment_of(topup_id)["customer"]
    processor.find_payments(bytes.fromhex(topup_id), customer)
    await ask(shop, buyer, topup_id, DOLLAR)
    await shop.work("refunds")
    processor.find_refunds(intent)
    stripe_side.dispute(intent)
    recipient = processor.create_recipient("a" * 32, "a@example.test", "DE")
    processor.onboarding_url(recipient)
    stripe_side.onboard(recipient)
    processor.recipient_state(recipient)
    sent = processor.create_transfer("0d" * 16, 100, recipient, attempt=1)
    processor.find_transfers("0d" * 16)
    stripe_side.reverse(sent.transfer_id)
    processor.available_cents()
    await shop.hear()
    await shop.work("reconcile")
    await shop.call("DELETE", "/v1/billing/card", buyer)


async def test_every_parameter_we_send_is_stripes(shop):
    await everything(shop)
    sent = shop.stripe.api.parameters
    known = {*PARAMS, *NO_PARAMS, *(route for route in sent if not sent[route] - {""})}
    assert set(sent) <= known, "a route that no types are named for"
    assert set(PARAMS) <= set(sent), "a route that we no longer use"
    strange = [
        (route, name)
        for route, shape in PARAMS.items()
        for name in sorted(sent[route])
        if name and not is_known(shape, name.replace("[]", "").split("."))
    ]
    assert sorted(set(strange)) == []


async def test_every_field_the_fake_answers_is_stripes(shop):
    await everything(shop)
    assert all(shop.stripe.all(kind) for kind in OBJECTS)
    strange = [
        (kind, name)
        for kind, shape in OBJECTS.items()
        for thing in shop.stripe.all(kind)
        for name in thing
        if not name.startswith("_") and name not in fields(shape)
    ]
    assert sorted(set(strange)) == []


def fields(shape):
    return {name for part in shape.__mro__ for name in getattr(part, "__annotations__", {})}
