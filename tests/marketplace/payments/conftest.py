"""A marketplace that Stripe, as the fake plays it, moves the money for; one clock for both."""

import asyncio
import secrets
from dataclasses import dataclass

import pytest

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.invariants import check as check_book
from marketplace.errors import MarketError
from marketplace.payments import books
from marketplace.payments.inbox import service as inbox
from tests.fakestripe import FakeStripe
from tests.marketplace.world import DOLLAR, Buyer, World

PUBLIC_URL = "https://market.test"


@dataclass
class Shop:
    """Both sides, and what people do there."""

    world: World
    stripe: FakeStripe

    def take_webhook(self, body, headers):
        """Stripe's post, as the endpoint takes it."""
        try:
            inbox.receive(self.world.market, body, headers["stripe-signature"])
        except MarketError as error:
            return error.status_code
        return 200

    async def hear(self):
        """Everything Stripe has to tell now is told and acted on."""
        self.stripe.webhooks.deliver(self.take_webhook)
        return await self.work("webhooks")

    async def work(self, job):
        """One turn of one job, in a thread as in life."""
        return await asyncio.to_thread(self.world.worker.do, job)

    async def open(self, buyer: Buyer, amount=20 * DOLLAR, *, topup_id=None, **more):
        body = {"amount_nanos": amount, "topup_id": topup_id or secrets.token_hex(16), **more}
        return await self.world.http.post("/v1/topups", json=body, headers=buyer.headers)

    async def top_up(self, buyer: Buyer, amount=20 * DOLLAR, **more) -> str:
        """Paid on Stripe's page and told of; gives the top-up's id."""
        opened = await self.open(buyer, amount, **more)
        assert opened.status_code == 200, opened.text
        self.stripe.pay_checkout(self.session_of(opened)["id"])
        await self.hear()
        return opened.json()["topup_id"]

    def session_of(self, opened):
        """The checkout session behind an answer."""
        url = opened.json()["checkout_url"]
        return next(s for s in self.stripe.all("checkout.session") if s["url"] == url)

    def payment_of(self, topup_id):
        """The payment intent of a top-up."""
        return next(
            intent
            for intent in self.stripe.all("payment_intent")
            if intent["metadata"].get("topup_id") == topup_id
        )

    async def call(self, method, path, buyer: Buyer, **more):
        return await self.world.http.request(method, path, headers=buyer.headers, **more)

    async def cash(self, buyer: Buyer):
        return (await self.world.balance(buyer))["available_nanos"]

    def book(self, code: AccountCode, owner=""):
        with self.world.market.database.reading() as session:
            return Book(session).balance(AccountRef(code, owner)).posted_nanos

    def violations(self):
        with self.world.market.database.reading() as session:
            return [*check_book(session), *books.check(session)]

    def pass_time(self, seconds):
        self.world.pass_time(seconds)


@pytest.fixture
def stripe():
    with FakeStripe() as server:
        yield server


@pytest.fixture
async def shop(home, database_url, stripe):
    settings = {
        "stripe_api_key": stripe.api_key,
        "stripe_webhook_secret": stripe.webhook_secret,
        "stripe_api_base": stripe.url,
        "public_url": PUBLIC_URL,
    }
    async with World(home, database_url=database_url, **settings) as world:
        stripe.clock.follow(world.clock.now_s)
        yield Shop(world, stripe)
