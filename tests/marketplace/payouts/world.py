"""A market whose jobs are run by hand, without HTTP: accounts, earnings, and a processor."""

import secrets

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.invariants import check as check_book
from marketplace.accounts.models import BuyerRow
from marketplace.config import MarketConfig
from marketplace.db import Database
from marketplace.machines import service as machines
from marketplace.market import Market
from marketplace.payments.processor import NANOS_PER_CENT
from marketplace.payouts import books, recipients, service
from marketplace.payouts.repository import PayoutRepository
from marketplace.payouts.schedule import Schedule
from protocol.identity import KeyPair
from tests.ledger.world import broken_digests
from tests.marketplace.payouts.processor import COUNTRY, BookedProcessor
from tests.marketplace.world import HandClock

DAY_S = 86_400


class PayoutWorld:
    """One market over a database with every table."""

    def __init__(self, home, url=""):
        self.clock = HandClock()
        self.processor = BookedProcessor(self.clock)
        config = MarketConfig(home=home, database_url=url)
        home.mkdir(parents=True, exist_ok=True)
        self.market = Market(
            config=config,
            key=KeyPair.generate(),
            clock=self.clock,
            database=Database(config.url),
            processor=self.processor,
            payout_processor=self.processor,
        )

    def pass_time(self, seconds):
        self.clock.now += seconds

    def transaction(self):
        return self.market.database.transaction()

    def reading(self):
        return self.market.database.reading()

    @property
    def now(self):
        return self.clock.now

    def account(self, *, ready=True, cents=0, age_s=0):
        """A provider's account with so much payable; `ready`: the processor knows its bank."""
        account_id = secrets.token_hex(16)
        with self.transaction() as session:
            session.add(
                BuyerRow(account_id=account_id, name="provider", created_at_s=self.now - age_s)
            )
            session.flush()
        if ready:
            recipients.open_recipient(self.market, account_id, "a@b.example", COUNTRY)
        if cents:
            self.earn(account_id, cents)
        return account_id

    def earn(self, account_id, cents, *, nanos=0):
        """Payable money, as a release would have made it, paid by a buyer's top-up."""
        self.post(
            AccountRef(AccountCode.PROCESSOR_AVAILABLE),
            AccountRef(AccountCode.PROVIDER_PAYABLE, account_id),
            cents * NANOS_PER_CENT + nanos,
            "earned_in_test",
        )

    def post(self, debit, credit, nanos, code, *, ref=None):
        with self.transaction() as session:
            Book(session).transfer(
                debit, credit, nanos, code=code, ref=ref or secrets.token_hex(8), now_s=self.now
            )

    def bind(self, machine, account_id):
        with self.transaction() as session:
            machines.bind(session, machine, account_id, "m", bound_by="key:test", now_s=self.now)

    def settle(self, machine, buyer, nanos):
        """What a settled session leaves in the book: the buyer's charge, the machine's credit."""
        hold_id = secrets.token_bytes(16)
        with self.transaction() as session:
            book, now = Book(session), self.now
            book.transfer(
                AccountRef(AccountCode.PROCESSOR_PENDING),
                AccountRef(AccountCode.BUYER_CASH, buyer),
                nanos,
                code="topup",
                ref=hold_id.hex(),
                now_s=now,
            )
            book.hold(hold_id, buyer, nanos, now_s=now, expires_at_s=now + 60)
            credit = (AccountRef(AccountCode.PROVIDER_EARNED, machine), nanos)
            book.post_hold(hold_id, nanos, [credit], now_s=now)

    def reserve(self, account_id, payout_id=None):
        payout_id = payout_id or secrets.token_bytes(16)
        with self.transaction() as session:
            service.reserve(session, account_id, payout_id, origin=Schedule.MANUAL, now_s=self.now)
        return payout_id

    def payout(self, payout_id):
        with self.reading() as session:
            row = PayoutRepository(session).get(payout_id)
            session.expunge(row)
            return row

    def state(self, payout_id):
        return self.payout(payout_id).state

    def balance(self, code, owner):
        with self.reading() as session:
            return Book(session).balance(AccountRef(code, owner)).posted_nanos

    def payable_cents(self, account_id):
        return self.balance(AccountCode.PROVIDER_PAYABLE, account_id) // NANOS_PER_CENT

    def in_transit_cents(self, account_id):
        return self.balance(AccountCode.PROVIDER_IN_TRANSIT, account_id) // NANOS_PER_CENT

    def alarms(self):
        with self.reading() as session:
            rows = PayoutRepository(session).alarms(unseen_only=False, limit=100)
            return [row.kind for row in rows]

    def event(self, kind, object_id, **payload):
        with self.transaction() as session:
            service.on_processor_event(session, kind, object_id, payload, now_s=self.now)

    def violations(self):
        with self.reading() as session:
            return books.check(session) + check_book(session) + broken_digests(session)

    def close(self):
        self.market.database.close()
