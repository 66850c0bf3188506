"""Payouts as a state machine of two workers, a faulty processor, and deaths between any two steps.

Whatever happens, the processor has at most one transfer for each payout, the book is whole after
every step, and in the end everything that was sent is booked and nothing else.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from marketplace.config import DATABASE_FILE
from marketplace.errors import MarketError
from marketplace.payouts import books
from marketplace.payouts.jobs import recover, send
from marketplace.payouts.recovery import look, resolve, take_overdue
from marketplace.payouts.recovery_rules import KEY_SAFE_S, LOOK_AGAIN_S
from marketplace.payouts.sending import record, submit, take
from marketplace.payouts.service import SUBMIT_S
from marketplace.standing import service as standing
from tests.marketplace.conftest import sqlite_template
from tests.marketplace.payouts.processor import ProcessDied, Trouble
from tests.marketplace.payouts.world import PayoutWorld

WORKERS = st.sampled_from(("one", "two"))
ACCOUNTS = 2


class PayoutMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        (self.home / DATABASE_FILE).write_bytes(sqlite_template())
        self.pay = PayoutWorld(self.home)
        self.accounts = [self.pay.account() for _ in range(ACCOUNTS)]
        self.earned = dict.fromkeys(self.accounts, 0)
        self.payouts = set()
        # what each worker has in its hands; a death empties them
        self.attempts, self.found, self.outcomes = {}, {}, {}
        for which in range(ACCOUNTS):
            self.earn_and_reserve(which, 1000)

    def teardown(self):
        try:
            self.settle_all()
        finally:
            self.pay.close()
            shutil.rmtree(self.home)

    @rule(which=st.integers(0, ACCOUNTS - 1), cents=st.integers(1000, 3000))
    def earn_and_reserve(self, which, cents):
        account = self.accounts[which]
        self.pay.earn(account, cents)
        self.earned[account] += cents
        try:
            self.payouts.add(self.pay.reserve(account))
        except MarketError:
            return

    @rule(worker=WORKERS, trouble=st.sampled_from(Trouble), is_well=st.booleans())
    def work(self, worker, trouble, is_well):
        """The next step of what the worker has in its hands; else something to begin with."""
        if worker in self.outcomes:
            record(self.pay.market, *self.outcomes.pop(worker))
        elif worker in self.attempts:
            self.submit(worker, None if is_well else trouble)
        elif worker in self.found:
            self.resolve(worker)
        elif is_well:
            _, attempt = take(self.pay.market)
            self.begin(worker, attempt)
        elif attempt := take_overdue(self.pay.market):
            self.found[worker] = (attempt, None)

    def resolve(self, worker):
        attempt, found = self.found.pop(worker)
        if found is None:
            self.found[worker] = (attempt, look(self.pay.market, attempt.name))
        elif again := resolve(self.pay.market, attempt, found):
            self.attempts[worker] = again

    def submit(self, worker, trouble):
        attempt = self.attempts.pop(worker)
        self.pay.processor.troubles.clear()
        if trouble is not None:
            self.pay.processor.troubles.append(trouble)
        try:
            self.outcomes[worker] = (attempt, submit(self.pay.market, attempt))
        except ProcessDied:
            self.begin(worker, None)

    @precondition(lambda self: self.attempts or self.found or self.outcomes)
    @rule(worker=WORKERS)
    def die(self, worker):
        self.begin(worker, None)

    @precondition(lambda self: self.pay.processor.on_their_way)
    @rule()
    def deliver(self):
        self.pay.processor.deliver()

    @rule(seconds=st.sampled_from((1, SUBMIT_S)))
    def a_while_passes(self, seconds):
        self.pay.pass_time(seconds)

    @rule(seconds=st.sampled_from((LOOK_AGAIN_S, KEY_SAFE_S, 2 * KEY_SAFE_S)))
    def long_passes(self, seconds):
        # no request lives so long
        self.pay.processor.deliver()
        self.pay.pass_time(seconds)

    @rule(which=st.integers(0, ACCOUNTS - 1), freeze=st.booleans())
    def freeze(self, which, freeze):
        change = standing.freeze if freeze else None
        with self.pay.transaction() as session:
            if change:
                change(session, self.accounts[which], "operator", now_s=self.pay.now)
            else:
                standing.unfreeze(session, self.accounts[which], now_s=self.pay.now)

    @precondition(lambda self: self.pay.processor.transfers)
    @rule(data=st.data())
    def told_of_a_transfer(self, data):
        record = data.draw(st.sampled_from(self.pay.processor.transfers))
        kind = data.draw(st.sampled_from(("transfer.created", "transfer.reversed")))
        self.pay.event(kind, record.transfer_id, transfer_group=record.payout_id, amount=1)

    @precondition(lambda self: self.pay.processor.transfers)
    @rule(data=st.data())
    def reverse(self, data):
        record = data.draw(st.sampled_from(self.pay.processor.transfers))
        self.pay.processor.reverse(record.payout_id)
        self.pay.event("transfer.reversed", record.transfer_id)

    @rule(kind=st.sampled_from(("payout.paid", "payout.failed")), which=st.integers(0, 1))
    def told_by_the_bank(self, kind, which):
        account = f"acct_{self.accounts[which]}"
        self.pay.event(kind, "po_1", account=account, created=self.pay.now)

    @invariant()
    def the_books_agree(self):
        with self.pay.reading() as session:
            assert books.check(session) == []

    @invariant()
    def no_payout_has_two_transfers(self):
        groups = [record.payout_id for record in self.pay.processor.transfers]
        assert len(groups) == len(set(groups))

    def begin(self, worker, attempt):
        for hands in (self.attempts, self.found, self.outcomes):
            hands.pop(worker, None)
        if attempt is not None:
            self.attempts[worker] = attempt

    def settle_all(self):
        """No more trouble: everything comes to an end, and the two books say the same."""
        pay, market = self.pay, self.pay.market
        pay.processor.troubles.clear()
        pay.processor.deliver()
        for account in self.accounts:
            with pay.transaction() as session:
                standing.unfreeze(session, account, now_s=pay.now)
        # a refusal ends a payout; whatever else is left needs at most a second key
        for _ in range(4):
            pay.pass_time(KEY_SAFE_S)
            recover(market)
            send(market)
        sent = {record.payout_id: record for record in pay.processor.transfers}
        for payout_id in self.payouts:
            row = pay.payout(payout_id)
            record = sent.pop(payout_id.hex(), None)
            if record is None:
                assert (row.state, row.transfer_id) == ("failed", None)
                continue
            assert row.transfer_id == record.transfer_id
            assert row.amount_cents == record.amount_cents
            assert row.reversed_cents == record.reversed_cents
        assert not sent, "the processor sent nothing that is not a payout"
        for account, earned in self.earned.items():
            recipient = f"acct_{account}"
            out = sum(
                record.amount_cents - record.reversed_cents
                for record in pay.processor.transfers
                if record.recipient == recipient
            )
            assert pay.in_transit_cents(account) == 0
            assert pay.payable_cents(account) == earned - out
        assert pay.violations() == []


@pytest.mark.parametrize("steps", [30])
def test_every_payout_is_sent_exactly_once(steps):
    run_state_machine_as_test(
        PayoutMachine,
        settings=settings(
            max_examples=12,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
