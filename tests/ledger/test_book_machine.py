"""The book against a plain dict, by random steps: top up, hold, lease, submit, post and settle.

Every invariant that is SQL is checked after every step; the model says what each balance must be.
"""

import dataclasses

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from ledger.errors import (
    HoldResolved,
    HoldUnknown,
    InsufficientFunds,
    LedgerError,
    TransferConflict,
)
from ledger.invariants import check
from ledger.lanes import open_lane
from ledger.log import Log
from ledger.receipts import ReceiptStatus, accept_receipts
from ledger.settle_window import mark_closed, settle_ready
from protocol.envelope import seal
from protocol.money import Work
from tests.ledger.world import (
    MARKET,
    NOW_S,
    OTHER,
    PROCESSOR,
    PROVIDER,
    SETTLE_BY_S,
    id_of,
    lease_of,
    memory,
    receipt_of,
)

ENGINE = memory()
BUYERS = ("ann", "ben")
AMOUNTS = st.integers(1, 400_000)
LAST = 6
EARNED = AccountRef(AccountCode.PROVIDER_EARNED, "somebody")
FEE = AccountRef(AccountCode.FEE)


class BookMachine(RuleBasedStateMachine):
    """One open transaction is the whole life of a book; it is rolled back at the end."""

    holds = Bundle("holds")
    leases = Bundle("leases")

    @initialize()
    def begin(self):
        self.session = Session(ENGINE)
        self.session.begin()
        self.book = Book(self.session)
        self.count = 0
        self.posted = dict.fromkeys(BUYERS, 0)
        self.topups: dict[str, tuple[str, int]] = {}
        self.held: dict[bytes, tuple[str, int]] = {}
        self.closed: set[bytes] = set()
        self.charged: dict[bytes, int] = {}
        self.leased: dict[bytes, list] = {}
        self.marks: dict[bytes, int] = {}
        self.earned = 0
        self.fees = 0
        for buyer in BUYERS:
            self.top_up(buyer, 1_000_000)

    def teardown(self):
        if hasattr(self, "session"):
            self.session.rollback()
            self.session.close()

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}-{self.count}"

    def available(self, buyer: str) -> int:
        open_holds = [
            amount
            for hold, (owner, amount) in self.held.items()
            if owner == buyer and hold not in self.charged
        ]
        return self.posted[buyer] - sum(open_holds)

    @rule(buyer=st.sampled_from(BUYERS), amount=AMOUNTS)
    def top_up(self, buyer, amount):
        ref = self.name("topup")
        self._pay(buyer, amount, ref)
        self.topups[ref] = (buyer, amount)
        self.posted[buyer] += amount

    @rule(data=st.data(), extra=st.integers(0, 1))
    def replay_top_up(self, data, extra):
        if not self.topups:
            return
        ref = data.draw(st.sampled_from(sorted(self.topups)))
        buyer, amount = self.topups[ref]
        if extra:
            with pytest.raises(TransferConflict):
                self._pay(buyer, amount + extra, ref)
        else:
            self._pay(buyer, amount, ref)

    def _pay(self, buyer, amount, ref):
        self.book.transfer(
            PROCESSOR,
            AccountRef(AccountCode.BUYER_CASH, buyer),
            amount,
            code="topup",
            ref=ref,
            now_s=NOW_S,
        )

    @rule(target=holds, buyer=st.sampled_from(BUYERS), amount=AMOUNTS)
    def hold(self, buyer, amount):
        hold = id_of(self.name("hold"))
        if amount > self.available(buyer):
            with pytest.raises(InsufficientFunds):
                self._hold(hold, buyer, amount)
        else:
            self._hold(hold, buyer, amount)
            self.held[hold] = (buyer, amount)
        return hold

    @rule(hold=holds)
    def replay_hold(self, hold):
        if hold in self.held:
            self._hold(hold, *self.held[hold])

    def _hold(self, hold, buyer, amount):
        self.book.hold(hold, buyer, amount, now_s=NOW_S, expires_at_s=SETTLE_BY_S)

    @rule(target=leases, hold=holds, provider=st.sampled_from((PROVIDER, OTHER)))
    def lease(self, hold, provider):
        lease = lease_of(self.name("lease"), "", provider=provider, amount_nanos_max=10_000)
        lease = dataclasses.replace(lease, hold_id=hold)
        covered = hold in self.held and hold not in self.charged
        if covered:
            maximum = lease.amount_nanos_max * (len(self.leased.get(hold, [])) + 1)
            covered = maximum * 10_500 // 10_000 <= self.held[hold][1]
        if covered:
            open_lane(self.session, seal(lease, MARKET).encode(), lease)
            self.leased.setdefault(hold, []).append(lease)
            self.marks[lease.lease_id] = 0
        else:
            with pytest.raises(LedgerError):
                open_lane(self.session, seal(lease, MARKET).encode(), lease)
        return lease

    @rule(
        target=leases,
        buyer=st.sampled_from(BUYERS),
        amount=st.integers(20_000, 100_000),
        provider=st.sampled_from((PROVIDER, OTHER)),
    )
    def buy(self, buyer, amount, provider):
        """A hold with its first lease, as a paid request makes them."""
        return self.lease(self.hold(buyer, amount), provider)

    @rule(
        lease=leases,
        sequences=st.lists(st.integers(1, LAST), min_size=1, max_size=4),
        finish=st.booleans(),
    )
    def submit(self, lease, sequences, finish):
        """An honest payer's receipts in any order, any number of times: tokens follow from the
        sequence, and LAST is always and alone the final one."""
        sequences = [*sequences, LAST] if finish else sequences
        provider = PROVIDER if lease.provider == PROVIDER.peer_id else OTHER
        batch = [
            receipt_of(lease, sequence, sequence * 20, provider=provider, final=sequence == LAST)
            for sequence in sequences
        ]
        outcomes = accept_receipts(self.session, batch, provider=provider.peer_id, now_s=NOW_S)
        if lease.lease_id not in self.marks:
            assert {outcome.status for outcome in outcomes} == {ReceiptStatus.REJECTED}
            return
        before, highest = self.marks[lease.lease_id], max(sequences)
        is_open = lease.hold_id not in self.charged
        if is_open:
            self.marks[lease.lease_id] = max(before, highest)
        for sequence, outcome in zip(sequences, outcomes, strict=True):
            assert outcome.status in self._expected(sequence, before, highest, is_open)
        accepted = [item for item in outcomes if item.status is ReceiptStatus.ACCEPTED]
        assert len(accepted) == (1 if is_open and highest > before else 0)

    def _expected(self, sequence, before, highest, is_open):
        if sequence > before and not is_open:
            return {ReceiptStatus.REJECTED}
        if sequence > before and sequence == highest:
            return {ReceiptStatus.ACCEPTED, ReceiptStatus.DUPLICATE}
        return {ReceiptStatus.SUPERSEDED, ReceiptStatus.DUPLICATE}

    def _earned(self, lease):
        tokens = self.marks[lease.lease_id] * 20
        return lease.amount_for(Work(0, tokens * 4, tokens * 1024, tokens * 1024))

    @rule(hold=holds)
    def release(self, hold):
        if hold not in self.held:
            with pytest.raises(HoldUnknown):
                self.book.release(hold, now_s=NOW_S)
        elif self.charged.get(hold, 0):
            with pytest.raises(HoldResolved):
                self.book.release(hold, now_s=NOW_S)
        elif hold not in self.charged and self.leased.get(hold):
            with pytest.raises(LedgerError):
                self.book.release(hold, now_s=NOW_S)
        else:
            self.book.release(hold, now_s=NOW_S)
            self.charged[hold] = 0

    @rule(hold=holds, share=st.integers(0, 10_000))
    def post_by_hand(self, hold, share):
        if hold not in self.held or self.leased.get(hold):
            return
        _, amount = self.held[hold]
        charged = amount * share // 10_000
        fee = charged // 20
        legs = [(EARNED, charged - fee), (FEE, fee)]
        if hold in self.charged:
            with pytest.raises(HoldResolved):
                self.book.post_hold(hold, charged, legs, now_s=NOW_S)
            return
        self.book.post_hold(hold, charged, legs, now_s=NOW_S)
        self._charge(hold, charged, fee)

    @rule(hold=holds)
    def close(self, hold):
        if hold in self.held:
            mark_closed(self.session, hold)
            self.closed.add(hold)
        else:
            with pytest.raises(HoldUnknown):
                mark_closed(self.session, hold)

    @rule(lease=leases, late=st.booleans())
    def end(self, lease, late):
        """The session's last receipts, the head's word that it is over, and the settlement."""
        for other in list(self._lanes(lease.hold_id)):
            self.submit(other, [LAST], finish=False)
        self.close(lease.hold_id)
        self.settle(late=False)
        self.submit(lease, [1, LAST], finish=late)

    @rule(late=st.sampled_from((False,) * 7 + (True,)))
    def settle(self, late):
        now_s = SETTLE_BY_S + 1 if late else NOW_S
        settled = settle_ready(self.session, now_s=now_s, limit=100)
        ready = {
            hold
            for hold in self.held
            if hold not in self.charged and (late or (hold in self.closed and self._final(hold)))
        }
        assert {item.hold_id for item in settled} == ready
        for item in settled:
            earned = sum(map(self._earned, self._lanes(item.hold_id)))
            assert item.charged_nanos == earned * 10_500 // 10_000
            assert sum(credit.nanos for credit in item.credits) == earned
            self._charge(item.hold_id, item.charged_nanos, item.charged_nanos - earned)

    def _lanes(self, hold):
        return self.leased.get(hold, [])

    def _final(self, hold):
        return all(self.marks[lease.lease_id] == LAST for lease in self._lanes(hold))

    def _charge(self, hold, charged, fee):
        buyer, _ = self.held[hold]
        self.charged[hold] = charged
        self.posted[buyer] -= charged
        self.earned += charged - fee
        self.fees += fee

    @invariant()
    def balances_are_the_models(self):
        if not hasattr(self, "session"):
            return
        for buyer in BUYERS:
            balance = self.book.balance(AccountRef(AccountCode.BUYER_CASH, buyer))
            assert balance.posted_nanos == self.posted[buyer]
            assert balance.available_nanos == self.available(buyer) >= 0
        totals = self.book.totals()
        assert totals[AccountCode.PROVIDER_EARNED].posted_nanos == self.earned
        assert totals[AccountCode.FEE].posted_nanos == self.fees
        assert sum(balance.posted_nanos for balance in totals.values()) == 0

    @invariant()
    def nothing_is_violated(self):
        if hasattr(self, "session"):
            assert check(self.session) == []
            assert Log(self.session).size >= 0


BookMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestBookMachine = BookMachine.TestCase
