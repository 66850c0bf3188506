"""The outside world: a Stripe that loses replies, in a process of its own that is never killed.

    python -m benchmarks.ledger_kills.outside DIRECTORY PORT

It is the stateful stand-in of `tests/fakestripe`. Beside its HTTP it plays the people there: every
checkout that a buyer was shown is paid, every new recipient completed. Its book is written out when
it is asked for.
"""

import http.client
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from benchmarks.ledger_kills.place import Place
from tests.fakestripe import FakeStripe, Fault

__all__ = ["main"]

TURN_S = 0.05
WEBHOOK_TIMEOUT_S = 5.0
SENT_TWICE = 0.2
"""Of the events: the same one again, at once."""
RATES = {
    Fault.DROP_BEFORE: 0.02,
    Fault.DROP_AFTER: 0.04,
    Fault.ERROR_BEFORE: 0.02,
    Fault.ERROR_STORED_AFTER: 0.02,
    Fault.CONFLICT: 0.01,
    Fault.RATE_LIMIT: 0.02,
}
"""Shares of the requests that move money. A 500 that is kept although nothing happened is left out:
who meets it has to wait for a day."""


def main(arguments: list[str]) -> None:
    """Until SIGTERM."""
    place, port = Place(Path(arguments[0])), int(arguments[1])
    stopping = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    stripe = FakeStripe(port=port)
    stripe.clock.follow(lambda: int(time.time()))
    stripe.webhooks.misbehave(share_twice=0.0, delay_s_max=3, seed=1)
    rng = random.Random(1)
    funded = faulty = False
    with stripe:
        while not stopping.wait(TURN_S):
            if not funded and place.stripe_fund.exists():
                stripe.fund(int(place.stripe_fund.read_text()))
                funded = True
            if not faulty and place.stripe_faulty.exists():
                stripe.faults.by_rate(RATES, seed=1)
                faulty = True
            _play(stripe, place)
            if place.options_path.exists():
                _deliver(stripe, place.options().markets[0], rng)
            if place.stripe_wanted.exists():
                _tell(stripe, place)


def _play(stripe: FakeStripe, place: Place) -> None:
    """What people do at Stripe's own pages: a page that nobody was shown, nobody pays."""
    shown = set(os.listdir(place.pages))
    for checkout in stripe.all("checkout.session"):
        if checkout["status"] == "open" and checkout["id"] in shown:
            stripe.pay_checkout(checkout["id"])
    for account in stripe.all("v2.core.account"):
        if account["_transfers"] != "active":
            # a bank account of one's own: the same one would link their owners
            stripe.onboard(account["id"], bank_fingerprint=f"fp_{account['id']}")


def _deliver(stripe: FakeStripe, market: str, rng: random.Random) -> None:
    """What is due; some of it twice, at once."""
    host = urlsplit(market).netloc

    def post(body: bytes, headers: dict[str, str]) -> int:
        if rng.random() < SENT_TWICE:
            once(body, headers)
        return once(body, headers)

    def once(body: bytes, headers: dict[str, str]) -> int:
        connection = http.client.HTTPConnection(host, timeout=WEBHOOK_TIMEOUT_S)
        try:
            connection.request("POST", "/v1/webhooks/stripe", body, headers)
            return connection.getresponse().status
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    with stripe.locked():
        stripe.webhooks.deliver(post)


def _tell(stripe: FakeStripe, place: Place) -> None:
    """Its book of transfers, whole or not at all."""
    book = {
        "transfers": [
            {"group": t["transfer_group"], "amount": t["amount"], "reversed": t["amount_reversed"]}
            for t in stripe.transfers()
        ],
        "faults": {fault.value: count for fault, count in stripe.faults.counts.items()},
    }
    made = place.stripe_book.with_suffix(".new")
    made.write_text(json.dumps(book))
    os.replace(made, place.stripe_book)
    place.stripe_wanted.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
