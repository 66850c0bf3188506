"""Earnings leave PROVIDER_EARNED once a day's age is enough, and what is held says why."""

import pytest

from ledger.accounts import AccountCode, AccountRef
from marketplace.payouts import recipients
from marketplace.payouts.jobs import plan, release, send
from marketplace.payouts.releases.service import held_of, releases_of
from marketplace.payouts.terms import NEVER_S, RULING_WINDOW_S
from marketplace.standing import service as standing
from protocol.identity import KeyPair
from tests.marketplace.payouts.world import DAY_S
from tests.marketplace.world import DOLLAR
from tests.postgres import both_engines

pytestmark = both_engines


@pytest.fixture
def machine():
    return str(KeyPair.generate().peer_id)


@pytest.fixture
def provider(pay, machine):
    account = pay.account()
    pay.bind(machine, account)
    return account


@pytest.fixture
def buyer(pay):
    """Old and with enough history that nothing of its money is held."""
    account = pay.account(ready=False, age_s=400 * DAY_S)
    pay.clock.now -= 40 * DAY_S
    cash = AccountRef(AccountCode.BUYER_CASH, account)
    pay.post(AccountRef(AccountCode.PROCESSOR_PENDING), cash, 600 * DOLLAR, "topup")
    pay.pass_time(40 * DAY_S)
    return account


def released(pay, account):
    with pay.reading() as session:
        rows = releases_of(session, account, since_s=0, limit=100)
        return [(r.amount_nanos, r.payable_nanos, r.held_nanos, r.reasons) for r in rows]


def held(pay, account):
    with pay.reading() as session:
        return {r.reason: (r.amount_nanos, r.until_s) for r in held_of(session, account, limit=9)}


class TestAge:
    def test_a_new_account_waits_fourteen_days_after_the_day_is_over(
        self, pay, machine, provider, buyer
    ):
        pay.settle(machine, buyer, 20 * DOLLAR)
        left = DAY_S - pay.now % DAY_S
        pay.pass_time(left + 14 * DAY_S - 1)
        assert release(pay.market) == 0
        pay.pass_time(1)
        assert release(pay.market) == 1
        assert released(pay, provider) == [(20 * DOLLAR, 14 * DOLLAR, 6 * DOLLAR, "reserve")]
        assert pay.balance(AccountCode.PROVIDER_PAYABLE, provider) == 14 * DOLLAR
        assert pay.balance(AccountCode.PROVIDER_HELD, provider) == 6 * DOLLAR

    def test_again_releases_nothing(self, pay, machine, provider, buyer):
        pay.settle(machine, buyer, DOLLAR)
        pay.pass_time(20 * DAY_S)
        release(pay.market)
        assert release(pay.market) == 0
        assert len(released(pay, provider)) == 1

    def test_each_day_is_a_release_of_its_own(self, pay, machine, provider, buyer):
        for _ in range(3):
            pay.settle(machine, buyer, DOLLAR)
            pay.settle(machine, buyer, DOLLAR)
            pay.pass_time(DAY_S)
        pay.pass_time(20 * DAY_S)
        assert release(pay.market) == 3
        assert [amount for amount, *_ in released(pay, provider)] == 3 * [2 * DOLLAR]

    def test_an_unbound_machine_keeps_its_earnings(self, pay, buyer):
        machine = str(KeyPair.generate().peer_id)
        pay.settle(machine, buyer, DOLLAR)
        pay.pass_time(100 * DAY_S)
        assert release(pay.market) == 0
        assert pay.balance(AccountCode.PROVIDER_EARNED, machine) == DOLLAR
        account = pay.account()
        pay.bind(machine, account)
        assert release(pay.market) == 1

    def test_a_frozen_account_waits(self, pay, machine, provider, buyer):
        pay.settle(machine, buyer, DOLLAR)
        with pay.transaction() as session:
            standing.freeze(session, provider, "operator", now_s=pay.now)
        pay.pass_time(100 * DAY_S)
        assert release(pay.market) == 0
        with pay.transaction() as session:
            standing.unfreeze(session, provider, now_s=pay.now)
        assert release(pay.market) == 1

    def test_what_a_ruling_took_is_not_released(self, pay, machine, provider, buyer):
        pay.settle(machine, buyer, 10 * DOLLAR)
        earned = AccountRef(AccountCode.PROVIDER_EARNED, machine)
        cash = AccountRef(AccountCode.BUYER_CASH, buyer)
        pay.post(earned, cash, 4 * DOLLAR, "forfeit")
        pay.pass_time(20 * DAY_S)
        release(pay.market)
        assert released(pay, provider) == [(6 * DOLLAR, 3 * DOLLAR, 3 * DOLLAR, "reserve")]


class TestHeld:
    def test_the_reserve_is_given_back_when_it_is_old(self, pay, machine, provider, buyer):
        pay.settle(machine, buyer, 10 * DOLLAR)
        pay.pass_time(20 * DAY_S)
        release(pay.market)
        pay.pass_time(150 * DAY_S)
        assert release(pay.market) == 0
        pay.pass_time(20 * DAY_S)
        assert release(pay.market) == 1
        assert pay.balance(AccountCode.PROVIDER_PAYABLE, provider) == 10 * DOLLAR
        assert held(pay, provider) == {}

    def test_after_a_graceful_exit_it_comes_sooner(self, pay, machine, provider, buyer):
        pay.settle(machine, buyer, 10 * DOLLAR)
        pay.pass_time(20 * DAY_S)
        release(pay.market)
        with pay.transaction() as session:
            recipients.begin_exit(session, provider, now_s=pay.now)
        pay.pass_time(RULING_WINDOW_S - 1)
        assert release(pay.market) == 0
        pay.pass_time(1)
        assert release(pay.market) == 1
        assert pay.balance(AccountCode.PROVIDER_PAYABLE, provider) == 10 * DOLLAR

    def test_what_a_ruling_took_of_it_is_not_given_back(self, pay, machine, provider, buyer):
        pay.settle(machine, buyer, 10 * DOLLAR)
        pay.pass_time(20 * DAY_S)
        release(pay.market)
        reserve = AccountRef(AccountCode.PROVIDER_HELD, provider)
        cash = AccountRef(AccountCode.BUYER_CASH, buyer)
        pay.post(reserve, cash, 2 * DOLLAR, "forfeit")
        pay.pass_time(200 * DAY_S)
        assert release(pay.market) == 1
        assert pay.balance(AccountCode.PROVIDER_PAYABLE, provider) == 8 * DOLLAR

    def test_a_new_buyers_money_waits_a_month(self, pay, machine, provider):
        stranger = pay.account(ready=False)
        pay.settle(machine, stranger, DOLLAR // 2)
        pay.pass_time(16 * DAY_S)
        release(pay.market)
        assert held(pay, provider).keys() == {"new_buyer", "reserve"}
        assert pay.balance(AccountCode.PROVIDER_PAYABLE, provider) == 0
        pay.pass_time(20 * DAY_S)
        release(pay.market)
        assert held(pay, provider).keys() == {"reserve"}

    def test_one_strangers_share_waits_until_beyond_chargeback(self, pay, machine, provider, buyer):
        stranger = pay.account(ready=False)
        pay.settle(machine, stranger, 80 * DOLLAR)
        pay.settle(machine, buyer, 20 * DOLLAR)
        pay.pass_time(16 * DAY_S)
        release(pay.market)
        amounts = {reason: amount for reason, (amount, _) in held(pay, provider).items()}
        assert amounts["buyer_share"] == 30 * DOLLAR
        assert amounts["reserve"] == 30 * DOLLAR

    def test_a_linked_buyers_money_waits_for_an_operator(self, pay, machine, provider, buyer):
        with pay.transaction() as session:
            for account in (provider, buyer):
                standing.note_fingerprint(session, account, "card", "fp_1", now_s=pay.now)
        pay.settle(machine, buyer, 20 * DOLLAR)
        pay.pass_time(16 * DAY_S)
        release(pay.market)
        assert held(pay, provider) == {"linked_buyer": (20 * DOLLAR, NEVER_S)}
        pay.pass_time(1000 * DAY_S)
        assert release(pay.market) == 0
        with pay.transaction() as session:
            standing.allow_link(session, provider, buyer, approval_id="a1", now_s=pay.now)
        assert release(pay.market) == 1
        assert pay.balance(AccountCode.PROVIDER_PAYABLE, provider) == 20 * DOLLAR


async def test_from_earnings_to_the_processor(pay, machine, provider, buyer):
    pay.settle(machine, buyer, 20 * DOLLAR + 1)
    pay.pass_time(16 * DAY_S)
    release(pay.market)
    assert plan(pay.market) == 1
    assert plan(pay.market) == 0, "once a week"
    assert send(pay.market) == 1
    assert [t.amount_cents for t in pay.processor.transfers] == [1400]
    assert pay.payable_cents(provider) == 0


class TestNotSooner:
    def test_nothing_is_given_back_while_the_account_is_frozen(self, pay, machine, provider, buyer):
        pay.settle(machine, buyer, 10 * DOLLAR)
        pay.pass_time(20 * DAY_S)
        release(pay.market)
        with pay.transaction() as session:
            standing.freeze(session, provider, "operator", now_s=pay.now)
        pay.pass_time(200 * DAY_S)
        assert release(pay.market) == 0
        assert pay.balance(AccountCode.PROVIDER_HELD, provider) == 3 * DOLLAR
        with pay.transaction() as session:
            standing.unfreeze(session, provider, now_s=pay.now)
        assert release(pay.market) == 1

    def test_an_exit_frees_the_reserve_alone(self, pay, machine, provider, buyer):
        pay.settle(machine, pay.account(ready=False), 80 * DOLLAR)
        pay.settle(machine, buyer, 20 * DOLLAR)
        pay.pass_time(16 * DAY_S)
        release(pay.market)
        with pay.transaction() as session:
            recipients.begin_exit(session, provider, now_s=pay.now)
        pay.pass_time(RULING_WINDOW_S)
        release(pay.market)
        assert held(pay, provider).keys() == {"buyer_share"}
        assert pay.balance(AccountCode.PROVIDER_HELD, provider) == 30 * DOLLAR

    def test_allowing_one_linked_buyer_frees_no_other(self, pay, machine, provider, buyer):
        another = pay.account(ready=False, age_s=400 * DAY_S)
        with pay.transaction() as session:
            for account in (provider, buyer, another):
                standing.note_fingerprint(session, account, "card", "fp_1", now_s=pay.now)
        pay.settle(machine, buyer, 20 * DOLLAR)
        pay.settle(machine, another, 5 * DOLLAR)
        pay.pass_time(16 * DAY_S)
        release(pay.market)
        with pay.transaction() as session:
            standing.allow_link(session, provider, buyer, approval_id="a1", now_s=pay.now)
        assert release(pay.market) == 1
        assert pay.balance(AccountCode.PROVIDER_PAYABLE, provider) == 20 * DOLLAR
        assert pay.balance(AccountCode.PROVIDER_HELD, provider) == 5 * DOLLAR

    def test_a_day_is_released_once_when_another_follows(self, pay, machine, provider, buyer):
        for _ in range(2):
            pay.settle(machine, buyer, 10 * DOLLAR)
            pay.pass_time(20 * DAY_S)
            assert release(pay.market) == 1
        assert [amount for amount, *_ in released(pay, provider)] == 2 * [10 * DOLLAR]

    def test_what_a_ruling_gave_is_released_with_its_day(self, pay, machine, provider):
        disputed = AccountRef(AccountCode.DISPUTED, "00" * 16)
        earned = AccountRef(AccountCode.PROVIDER_EARNED, machine)
        pay.post(AccountRef(AccountCode.PROCESSOR_PENDING), disputed, DOLLAR, "topup")
        pay.post(disputed, earned, DOLLAR, "ruling")
        pay.pass_time(20 * DAY_S)
        assert release(pay.market) == 1
        assert [amount for amount, *_ in released(pay, provider)] == [DOLLAR]
