"""A Stripe in the test's own process: over real HTTP, with state, and as unreliable as is asked.

What it models is what the marketplace uses. Its book is open for assertions; whatever reads or
changes it from outside the server's thread does so with `locked()`, as the methods here do.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakestripe import accounts, checkouts, payments, returns, transfers
from tests.fakestripe.api import Api
from tests.fakestripe.clock import FakeClock
from tests.fakestripe.faults import Faults
from tests.fakestripe.http import HttpServer
from tests.fakestripe.idempotency import Keys
from tests.fakestripe.store import Object, Store
from tests.fakestripe.webhooks import Webhooks

__all__ = ["FakeStripe"]

ROUTES = (
    *transfers.ROUTES,
    *accounts.ROUTES,
    *payments.ROUTES,
    *checkouts.ROUTES,
    *returns.ROUTES,
)
CARD = "4242424242424242"


class FakeStripe:
    """`with FakeStripe() as stripe:` serves at `stripe.url` until the block ends."""

    api_key = "sk_test_fake"
    webhook_secret = "whsec_fake"

    def __init__(self, *, port: int = 0) -> None:
        self.clock = FakeClock()
        self.faults = Faults()
        self.keys = Keys()
        self.book = Store(self.clock)
        self.webhooks = Webhooks(self.book, self.webhook_secret)
        self.api = Api(self.book, self.faults, self.keys, ROUTES, self.api_key)
        self._http = HttpServer(self.api.handle, port=port)

    def __enter__(self) -> "FakeStripe":
        self._http.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.stop()

    @property
    def url(self) -> str:
        """For `base_addresses`."""
        return f"http://127.0.0.1:{self._http.port}"

    @contextmanager
    def locked(self) -> Iterator[Store]:
        """The book, with no request under way."""
        with self.api.lock:
            self.book.settle()
            returns.pay_waiting_refunds(self.book)
            yield self.book

    def fund(self, cents: int, *, available_after_s: int = 0) -> None:
        """Money from the operator's bank."""
        with self.locked() as book:
            made = book.add("topup", "tu", amount=cents, currency="usd", status="succeeded")
            book.move("topup", cents, source=made["id"], available_after_s=available_after_s)

    def onboard(self, recipient: str, *, bank_fingerprint: str = "fp_bank") -> None:
        """The provider has told Stripe everything."""
        with self.locked() as book:
            accounts.onboard(book, recipient, bank_fingerprint=bank_fingerprint)

    def restrict(self, recipient: str, *missing: str) -> None:
        """Stripe wants to know more of a provider."""
        with self.locked() as book:
            accounts.restrict(book, recipient, *missing)

    def reverse(self, transfer_id: str, cents: int | None = None) -> None:
        """The operator reverses a transfer in Stripe's dashboard."""
        with self.locked() as book:
            transfers.reverse(book, {} if cents is None else {"amount": cents}, transfer_id)

    def pay_checkout(self, checkout_id: str, *, card: str = CARD) -> Object:
        """The buyer fills in a card on Stripe's page."""
        with self.locked() as book:
            return checkouts.complete(book, checkout_id, card)

    def dispute(self, payment_id: str, cents: int | None = None) -> str:
        """A card holder complains; gives the dispute's id."""
        with self.locked() as book:
            return str(returns.open_dispute(book, payment_id, cents)["id"])

    def close_dispute(self, dispute_id: str, *, won: bool) -> None:
        with self.locked() as book:
            returns.close_dispute(book, dispute_id, won=won)

    def fail_refund(self, refund_id: str) -> None:
        """The card's bank does not take the money back."""
        with self.locked() as book:
            returns.fail_refund(book, refund_id)

    def all(self, kind: str) -> list[Object]:
        """Every object of a kind, oldest first: `charge`, `refund`, `checkout.session` …"""
        with self.locked() as book:
            return list(book.table(kind).values())

    @property
    def available_cents(self) -> int:
        with self.locked() as book:
            return book.available_cents

    @property
    def pending_cents(self) -> int:
        with self.locked() as book:
            return book.pending_cents

    def transfers(self, group: str | None = None) -> list[Object]:
        """Every transfer, or those of one payout, oldest first."""
        with self.locked() as book:
            table = book.table("transfer")
            return [table[i] for i in book.group(group)] if group else list(table.values())
