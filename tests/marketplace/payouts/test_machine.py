"""Payouts as a state machine of two workers, a faulty processor, and deaths between any two steps.

Whatever happens, the processor has at most one transfer for each payout, the book is whole after
every step, and in the end everything that was sent is booked and nothing else.
"""

import shutil
import tempfile
from contextlib import contextmanager, suppress
from functools import partial
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
from marketplace.payouts import books, service
from marketplace.payouts.jobs import recover, send
from marketplace.payouts.recovery import look, recover_one, resolve, take_overdue
from marketplace.payouts.recovery_rules import KEY_SAFE_S, LOOK_AGAIN_S
from marketplace.payouts.sending import record, send_one, submit, take
from marketplace.payouts.service import SUBMIT_S
from marketplace.standing import service as standing
from tests.marketplace.conftest import sqlite_template
from tests.marketplace.payouts.processor import KEY_LIFE_S, ProcessDied, Trouble
from tests.marketplace.payouts.world import PayoutWorld

WORKERS = st.sampled_from(("one", "two"))
TROUBLES = st.none() | st.sampled_from(Trouble)
WAITS_S = (SUBMIT_S, LOOK_AGAIN_S - 1, LOOK_AGAIN_S, KEY_SAFE_S, 2 * KEY_SAFE_S)
PICKS = st.integers(0, 7)
ACCOUNTS = 2


def one_of(things, pick):
    """Chosen by number: how many there are must not change what is drawn."""
    return things[pick % len(things)]


class PayoutMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        (self.home / DATABASE_FILE).write_bytes(sqlite_template())
        self.pay = PayoutWorld(self.home)
        self.accounts = [self.pay.account() for _ in range(ACCOUNTS)]
        self.earned = dict.fromkeys(self.accounts, 0)
        self.payouts = []
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
        self.pay.earn(account, cents, nanos=7)  # never a whole cent
        self.earned[account] += cents
        try:
            # ids in order: what happens must not hang on chance
            self.payouts.append(self.pay.reserve(account, len(self.payouts).to_bytes(16)))
        except MarketError:
            return

    @rule(worker=WORKERS, is_late=st.booleans())
    def begin(self, worker, is_late):
        """Take up a payout that waits, or one whose time is over; what was in hand is dropped."""
        self.drop(worker)
        if is_late:
            if attempt := take_overdue(self.pay.market):
                self.found[worker] = (attempt, None)
        else:
            _, attempt = take(self.pay.market)
            if attempt is not None:
                account = self.pay.payout(attempt.payout_id).account_id
                with self.pay.reading() as session:
                    assert not standing.is_frozen(session, account)
                self.attempts[worker] = attempt

    @precondition(lambda self: self.attempts or self.found or self.outcomes)
    @rule(worker=WORKERS, trouble=TROUBLES)
    def go_on(self, worker, trouble):
        """The next step of what the worker has in its hands."""
        if worker in self.outcomes:
            record(self.pay.market, *self.outcomes.pop(worker))
        elif worker in self.attempts:
            self.submit(worker, trouble)
        elif worker in self.found:
            self.resolve(worker)

    @rule(trouble=TROUBLES)
    def send_whole(self, trouble):
        """All steps of a submission without anybody between them."""
        with self.troubled(trouble):
            send_one(self.pay.market)

    @rule(
        trouble=TROUBLES,
        is_deaf=st.booleans(),
        wait_s=st.sampled_from(WAITS_S),
        turns=st.integers(1, 3),
    )
    def recover_whole(self, trouble, is_deaf, wait_s, turns):
        """The same of a recovery, each time after a while: no request is on its way so long."""
        for _ in range(turns):
            self.pay.processor.deliver()
            self.pay.pass_time(wait_s)
            self.pay.processor.deaf = is_deaf
            with self.troubled(trouble):
                recover_one(self.pay.market)
            self.pay.processor.deaf = False

    def resolve(self, worker):
        attempt, found = self.found.pop(worker)
        if found is None:
            self.found[worker] = (attempt, look(self.pay.market, attempt.name))
        elif again := resolve(self.pay.market, attempt, found):
            self.attempts[worker] = again

    def submit(self, worker, trouble):
        attempt = self.attempts.pop(worker)
        with self.troubled(trouble):
            self.outcomes[worker] = (attempt, submit(self.pay.market, attempt))

    @contextmanager
    def troubled(self, trouble):
        """What happens to the next request; a death of ours is over when this is."""
        troubles = self.pay.processor.troubles
        troubles.clear()
        if trouble is not None:
            troubles.append(trouble)
        with suppress(ProcessDied):
            yield
        troubles.clear()

    @precondition(lambda self: self.pay.processor.on_their_way)
    @rule()
    def deliver(self):
        self.pay.processor.deliver()

    @rule(seconds=st.sampled_from((1, SUBMIT_S - 1, SUBMIT_S)))
    def a_while_passes(self, seconds):
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
    @rule(pick=PICKS, kind=st.sampled_from(("transfer.created", "transfer.reversed")))
    def told_of_a_transfer(self, pick, kind):
        record = one_of(self.pay.processor.transfers, pick)
        self.pay.event(kind, record.transfer_id, transfer_group=record.payout_id, amount=1)

    @precondition(lambda self: self.pay.processor.transfers)
    @rule(pick=PICKS, is_part=st.booleans(), is_told=st.booleans())
    def reverse(self, pick, is_part, is_told):
        record = one_of(self.pay.processor.transfers, pick)
        self.pay.processor.reverse(
            record.payout_id, max(record.reversed_cents, 7) if is_part else None
        )
        if is_told:
            self.pay.event("transfer.reversed", record.transfer_id)

    @rule(pick=PICKS, is_given_up=st.booleans())
    def an_operator_ends_a_freeze_by_hand(self, pick, is_given_up):
        payout = one_of(self.payouts, pick)
        change = partial(service.cancel, reason="operator") if is_given_up else service.resume
        state = self.pay.state(payout)
        try:
            with self.pay.transaction() as session:
                change(session, payout, now_s=self.pay.now)
        except MarketError:
            assert state != "held" or is_given_up

    @rule(kind=st.sampled_from(("payout.paid", "payout.failed")), which=st.integers(0, 1))
    def told_by_the_bank(self, kind, which):
        account = f"acct_{self.accounts[which]}"
        self.pay.event(kind, "po_1", account=account, created=self.pay.now)

    @invariant()
    def the_books_agree(self):
        with self.pay.reading() as session:
            assert books.check(session) == []

    @invariant()
    def nobody_is_called_for_nothing(self):
        assert set(self.pay.alarms()) <= {"new_key", "partly_reversed"}

    @invariant()
    def no_payout_has_two_transfers(self):
        groups = [record.payout_id for record in self.pay.processor.transfers]
        assert len(groups) == len(set(groups))

    @invariant()
    def nothing_is_earned_or_lost(self):
        """Payable, in transit and gone make what was earned, whatever stage each payout is at."""
        gone = dict.fromkeys(self.accounts, 0)
        for payout in self.payouts:
            row = self.pay.payout(payout)
            if row.transfer_id is not None:
                gone[row.account_id] += row.amount_cents - row.reversed_cents
        for account, earned in self.earned.items():
            here = self.pay.payable_cents(account) + self.pay.in_transit_cents(account)
            assert here + gone[account] == earned

    @invariant()
    def a_key_is_used_while_it_is_remembered_and_the_next_when_it_is_dead(self):
        first_s, last = {}, {}
        for payout, attempt, at_s in self.pay.processor.asked:
            before, used_s = last.get(payout, (0, 0))
            # one that died before its request was never asked for
            assert before <= attempt <= self.pay.payout(bytes.fromhex(payout)).attempt
            if before and attempt > before:
                assert at_s - used_s >= LOOK_AGAIN_S
            assert at_s - first_s.setdefault((payout, attempt), at_s) < KEY_LIFE_S
            last[payout] = (attempt, at_s)

    @precondition(lambda self: self.attempts or self.found or self.outcomes)
    @rule(worker=WORKERS)
    def drop(self, worker):
        """The process dies, whatever it had in its hands."""
        for hands in (self.attempts, self.found, self.outcomes):
            hands.pop(worker, None)

    def settle_all(self):
        """No more trouble: everything comes to an end, and the two books say the same."""
        pay, market = self.pay, self.pay.market
        pay.processor.troubles.clear()
        pay.processor.deliver()
        for account in self.accounts:
            with pay.transaction() as session:
                standing.unfreeze(session, account, now_s=pay.now)
        for moved in pay.processor.transfers:
            pay.event("transfer.reversed", moved.transfer_id)
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
                assert (row.state in ("failed", "canceled"), row.transfer_id) == (True, None)
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
