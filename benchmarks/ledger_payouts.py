"""Payouts through a faulty Stripe: every one sent exactly once, and both books agree to the cent.

    python -m benchmarks.ledger_payouts [--payouts 20000] [--workers 2] [--seed 1] [--minutes 120]

The real job functions and the real `stripe` client, in processes that are killed at fail-points and
at random, against `tests/fakestripe` over HTTP: lost replies before and after the deed, 500s (some
replayed by the key for a day), 409s, keys that are forgotten after 24 hours of its clock, events
that come twice and in disorder. One clock, which this process moves, is everybody's.
"""

import argparse
import json
import mmap
import os
import random
import secrets
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.invariants import check as check_book
from marketplace.accounts.models import BuyerRow
from marketplace.config import MarketConfig
from marketplace.db import Database
from marketplace.market import Market
from marketplace.payments.processor import NANOS_PER_CENT
from marketplace.payments.stripe_gateway import StripeProcessor
from marketplace.payouts import books, recipients, service
from marketplace.payouts.jobs import plan, recover, send
from marketplace.payouts.models import PayoutRow
from marketplace.payouts.recovery_rules import KEY_SAFE_S, LOOK_AGAIN_S
from marketplace.payouts.repository import PayoutRepository, RecipientRepository
from marketplace.payouts.service import SUBMIT_S
from protocol.identity import KeyPair
from tests.fakestripe import FakeStripe, Fault
from tests.fakestripe import accounts as fake_accounts

ROUND_ACCOUNTS = 1_000
ONBOARDED_OVER_HTTP = 20
COUNTRY = "US"
RECIPIENT = {
    "identity": {"country": COUNTRY.lower()},
    "configuration": {
        "recipient": {"capabilities": {"stripe_balance": {"stripe_transfers": {"requested": True}}}}
    },
}
WEEK_S = 7 * 86_400
RATES = {
    Fault.DROP_BEFORE: 0.025,
    Fault.DROP_AFTER: 0.025,
    Fault.ERROR_BEFORE: 0.008,
    Fault.ERROR_STORED: 0.008,
    Fault.ERROR_STORED_AFTER: 0.004,
    Fault.CONFLICT: 0.01,
}
"""5 % lost replies, 2 % 500s, 1 % 409s."""
POINTS = {
    "payouts.reserve.after": 1_500,
    "payouts.take.before": 1_500,
    "payouts.take.after": 1_500,
    "payouts.send.before_call": 1_500,
    "payouts.send.after_call": 1_500,
    "payouts.send.after_commit": 1_500,
    "payouts.recover.before": 100,
    "payouts.recover.taken": 80,
    "payouts.recover.looked": 80,
    "payouts.recover.resolved": 80,
    "commit.before": 5_000,
    "commit.after": 5_000,
}
"""Where a worker dies, and at most how often it passes there before."""
EARNED_CENTS = (1_000, 90_000)
STALL_S = 600
"""A round that takes longer than this has lost something: the benchmark says so and ends."""


class SharedClock:
    """Unix seconds in a file, the same for every process that maps it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(struct.pack("<q", 1_800_000_000))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def now_s(self) -> int:
        return int(struct.unpack("<q", self._map[:8])[0])

    def advance(self, seconds: int) -> None:
        self._map[:8] = struct.pack("<q", self.now_s() + seconds)


def make_market(home: Path, url: str) -> Market:
    config = MarketConfig(home=home)
    processor: Any = StripeProcessor(
        FakeStripe.api_key, public_url="https://pool.example", api_base=url, timeout_s=20
    )
    return Market(
        config=config,
        key=KeyPair.generate(),
        clock=SharedClock(home / "clock"),
        database=Database(config.url),
        processor=processor,
        payout_processor=processor,
    )


def work(home: Path, url: str) -> None:
    """A worker: the three jobs, again and again, until it is killed."""
    market = make_market(home, url)
    while True:
        if not plan(market) + send(market) + recover(market):
            time.sleep(0.05)


class Run:
    """The driver: earns, moves the clock, delivers events, kills and restarts the workers."""

    def __init__(self, home: Path, stripe: FakeStripe, seed: int) -> None:
        self.home, self.stripe = home, stripe
        self.market = make_market(home, stripe.url)
        clock = self.market.clock
        assert isinstance(clock, SharedClock)
        self.clock = clock
        self.random = random.Random(seed)
        self.accounts: list[str] = []
        self.earned_cents = 0
        self.kills: Counter[str] = Counter()
        self.events = 0

    def open_accounts(self, count: int) -> None:
        """Providers whose bank Stripe knows; faults begin afterwards.

        A few tell it over HTTP, the rest are put where that would have brought them.
        """
        now_s = self.clock.now_s()
        self.accounts = [secrets.token_hex(16) for _ in range(count)]
        with self.market.database.transaction() as session:
            session.add_all(
                BuyerRow(account_id=account, name="provider", created_at_s=now_s)
                for account in self.accounts
            )
        for account in self.accounts[:ONBOARDED_OVER_HTTP]:
            recipients.open_recipient(self.market, account, "provider@pool.example", COUNTRY)
            with self.market.database.reading() as session:
                recipient = recipients.require(session, account).recipient
            self.stripe.onboard(recipient, bank_fingerprint=f"fp_{account}")
            recipients.refresh(self.market, account)
        with self.stripe.locked() as book, self.market.database.transaction() as session:
            repository = RecipientRepository(session)
            for account in self.accounts[ONBOARDED_OVER_HTTP:]:
                made = fake_accounts.create(book, RECIPIENT)["id"]
                book.get("v2.core.account", made).update(_transfers="active", _missing=[])
                repository.add_missing(account, made, COUNTRY, now_s)
                row = repository.lock(account)
                assert row is not None
                row.payouts_enabled = True
            repository.save()

    def earn(self, count: int) -> None:
        """So many accounts have earned what was paid by buyers and is free at Stripe."""
        now_s, total = self.clock.now_s(), 0
        with self.market.database.transaction() as session:
            book = Book(session)
            for account in self.accounts[:count]:
                cents = self.random.randint(*EARNED_CENTS)
                total += cents
                book.transfer(
                    AccountRef(AccountCode.PROCESSOR_AVAILABLE),
                    AccountRef(AccountCode.PROVIDER_PAYABLE, account),
                    cents * NANOS_PER_CENT,
                    code="earned_in_benchmark",
                    ref=secrets.token_hex(12),
                    now_s=now_s,
                )
        self.earned_cents += total
        self.stripe.fund(total)

    def week(self, expected: int, workers: int) -> None:
        """Until every account was paid for this week, however often a worker dies."""
        with self.workers(workers) as children:
            begun = time.monotonic()
            while True:
                self.keep_alive(children)
                self.deliver()
                states = self.states()
                sent = states["submitted"] + states["paid"]
                if sent == expected and not states["reserved"] + states["submitting"]:
                    return
                # nothing is left but what waits for a deadline: let it come
                if not states["reserved"] and sent + states["submitting"] == expected:
                    self.clock.advance(self.next_wait_s())
                if time.monotonic() - begun > STALL_S:
                    raise SystemExit(f"stalled: {dict(states)}, {sent} of {expected} sent")
                time.sleep(0.2)

    def next_wait_s(self) -> int:
        """To the recovery of a fresh attempt, else to an old key's end, else to its last look."""
        now_s = self.clock.now_s()
        with self.market.database.reading() as session:
            row = PayoutRepository(session).overdue(now_s + 10 * WEEK_S)
            if row is None:
                return 1
            if row.missed_at_s is not None:
                return LOOK_AGAIN_S
            # the kept 500s stay: after a few tries only the end of the key helps
            age_s = now_s - (row.attempt_at_s or now_s)
            return SUBMIT_S if age_s < 4 * SUBMIT_S else max(SUBMIT_S, KEY_SAFE_S - age_s)

    def states(self) -> Counter[str]:
        with self.market.database.reading() as session:
            connection = session.connection()
            rows = connection.exec_driver_sql(
                "SELECT state, COUNT(*) FROM market_payout GROUP BY 1"
            )
            return Counter({str(row[0]): int(row[1]) for row in rows})

    def deliver(self) -> None:
        """Events go out as the fake sends them: late, twice, in disorder."""
        with self.stripe.locked():
            bodies: list[bytes] = []

            def take(body: bytes, _: dict[str, str]) -> int:
                bodies.append(body)
                return 200

            self.stripe.webhooks.deliver(take)
        if not bodies:
            return
        with self.market.database.transaction() as session:
            for body in bodies:
                event = json.loads(body)
                thing = event["data"]["object"] | {"account": event.get("account")}
                service.on_processor_event(
                    session, event["type"], thing["id"], thing, now_s=self.clock.now_s()
                )
        self.events += len(bodies)

    @contextmanager
    def workers(self, count: int) -> Iterator[list[tuple[subprocess.Popen[bytes], str]]]:
        children = [self.start() for _ in range(count)]
        try:
            yield children
        finally:
            for child, _ in children:
                child.send_signal(signal.SIGKILL)
                child.wait()
                self.kills["at random"] += 1

    def keep_alive(self, children: list[tuple[subprocess.Popen[bytes], str]]) -> None:
        for index, (child, point) in enumerate(children):
            status = child.poll()
            if status is None:
                continue
            if status != -signal.SIGKILL:
                raise SystemExit(f"a worker ended with {status} instead of being killed")
            self.kills[point] += 1
            children[index] = self.start()

    def start(self) -> tuple[subprocess.Popen[bytes], str]:
        point = self.random.choice(list(POINTS))
        times = self.random.randint(1, POINTS[point])
        command = [sys.executable, "-m", "benchmarks.ledger_payouts", "--worker", str(self.home)]
        environment = os.environ | {"PIECEWORK_FAILPOINT": f"{point}:{times}"}
        child = subprocess.Popen([*command, "--url", self.stripe.url], env=environment)
        return child, point


def compare(run: Run) -> dict[str, int]:
    """The two books, payout by payout."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for transfer in run.stripe.transfers():
        groups.setdefault(str(transfer["transfer_group"]), []).append(transfer)
    with run.market.database.reading() as session:
        payouts = PayoutRepository(session)
        rows: list[PayoutRow] = []
        for account in run.accounts:
            rows += payouts.of_account(account, before_s=2**50, limit=10_000)
        sent = {row.payout_id.hex(): row for row in rows if row.transfer_id}
        booked = -sum_cents(session, AccountCode.PROCESSOR_AVAILABLE) - run.earned_cents
        violations = books.check(session) + check_book(session)
        alarms = len(payouts.alarms(unseen_only=False, limit=100_000))
        known = sum(RecipientRepository(session).get(a) is not None for a in run.accounts)
    at_stripe = sum(t["amount"] for group in groups.values() for t in group)
    wrong = sum(
        1
        for name, row in sent.items()
        if [(t["id"], t["amount"]) for t in groups.get(name, [])]
        != [(row.transfer_id, row.amount_cents)]
    )
    for violation in violations:
        print(f"  {violation.invariant}: {violation.detail}")
    return {
        "recipients": known,
        "payouts": len(rows),
        "payouts sent": len(sent),
        "transfers": sum(len(group) for group in groups.values()),
        "doubles": sum(len(group) > 1 for group in groups.values()),
        "missing": len(sent.keys() - groups.keys()),
        "strays": len(groups.keys() - sent.keys()),
        "payouts whose transfer differs": wrong,
        "cents difference": -booked - at_stripe,
        "cents sent": at_stripe,
        "alarms (new keys)": alarms,
        "violations": len(violations),
    }


def sum_cents(session: Any, code: AccountCode) -> int:
    """The balance of one of our own accounts; what the processor owes us is below zero."""
    return Book(session).balance(AccountRef(code)).posted_nanos // NANOS_PER_CENT


def named(counts: Counter[Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payouts", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=120, help="begin no week after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker", type=Path)
    parser.add_argument("--url", default="")
    given = parser.parse_args()
    if given.worker is not None:
        work(given.worker, given.url)
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        FakeStripe() as stripe,
    ):
        measure(Path(folder), stripe, given.payouts, given.workers, given.seed, given.minutes)


def measure(
    home: Path, stripe: FakeStripe, payouts: int, workers: int, seed: int, minutes: float
) -> None:
    run = Run(home, stripe, seed)
    stripe.clock.follow(run.clock.now_s)
    run.market.database.upgrade()
    begun = time.monotonic()
    run.open_accounts(min(ROUND_ACCOUNTS, payouts))
    opened_s = time.monotonic() - begun
    stripe.faults.by_rate(RATES, seed=seed)
    stripe.webhooks.misbehave(share_twice=0.1, delay_s_max=3_600, seed=seed)
    begun, expected = time.monotonic(), 0
    while expected < payouts and time.monotonic() - begun < minutes * 60:
        count = min(len(run.accounts), payouts - expected)
        expected += count
        run.earn(count)
        run.week(expected, workers)
        run.clock.advance(WEEK_S)
        run.deliver()
        print(f"  {expected} of {payouts} after {time.monotonic() - begun:.0f} s", flush=True)
    took_s = time.monotonic() - begun
    print(
        f"{expected} of {payouts} payouts, {len(run.accounts)} accounts, seed {seed},"
        f" {workers} workers"
    )
    for name, count in compare(run).items():
        print(f"{name:32} {count:>16,}")
    print(f"{'events delivered':32} {run.events:>16,}")
    print(f"{'workers killed':32} {run.kills.total():>16,}   {named(run.kills)}")
    print(f"{'faults':32} {stripe.faults.counts.total():>16,}   {named(stripe.faults.counts)}")
    print(f"{'seconds':32} {took_s:>16.0f}   (accounts opened in {opened_s:.0f} s before)")


if __name__ == "__main__":
    main()
