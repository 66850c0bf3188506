"""Accounts with money to be paid out, before anything is killed.

What they have is posted straight into the book, for earnings are released only when they are days
old; the same sum lies at the processor. From there on everything is the marketplace's own.
"""

import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.ledger_kills.client import Client
from benchmarks.ledger_kills.place import Options, Place
from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from marketplace.db import Database
from marketplace.payments.processor import NANOS_PER_CENT

__all__ = ["OPENING_CODE", "make_payees"]

OPENING_CODE = "opening"
CENTS_MIN = 1_000
ODD_NANOS = 4_321
"""Below a cent: it stays payable."""
THREADS = 4
ENABLED_S = 60.0


def make_payees(options: Options, place: Place, database_url: str, count: int) -> None:
    """`count` accounts, each ready for one payout of more than ten dollars."""
    with ThreadPoolExecutor(THREADS) as pool:
        payees = list(pool.map(lambda number: _make(options, number), range(count)))
    now_s, total = int(time.time()), 0
    database = Database(database_url)
    try:
        with database.transaction() as session:
            book = Book(session)
            for payee in payees:
                amount = payee["cents"] * NANOS_PER_CENT + ODD_NANOS
                book.transfer(
                    # the operator's own money, which the processor reports as such
                    AccountRef(AccountCode.GOODWILL),
                    AccountRef(AccountCode.PROVIDER_PAYABLE, payee["account_id"]),
                    amount, code=OPENING_CODE, ref=payee["account_id"], now_s=now_s,
                )  # fmt: skip
                total += payee["cents"]
    finally:
        database.close()
    place.stripe_fund.write_text(str(total + count))
    place.payees_path.write_text(json.dumps(payees))


def _make(options: Options, number: int) -> dict[str, Any]:
    with Client(options.markets) as client:
        made = client.send("POST", "/v1/accounts", {"name": f"payee {number}"}).data
        api_key = made["api_key"]
        terms = {"schedule": "manual", "minimum_cents": 100}
        client.send("PUT", "/v1/payouts/schedule", terms, api_key=api_key)
        give_up_at = time.monotonic() + ENABLED_S
        address = f"payee{number}-{secrets.token_hex(4)}@example.org"
        payee = {"email": address, "country": "US"}
        while True:
            answer = client.send("POST", "/v1/payouts/recipient", payee, api_key=api_key)
            if answer.status == 200 and answer.data["payouts_enabled"]:
                break
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"a recipient is not enabled: {answer.data}")
            time.sleep(0.1)
    return {"account_id": made["account_id"], "api_key": api_key, "cents": CENTS_MIN + number}
