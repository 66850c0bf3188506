"""Payouts and releases at the same moment: every nano leaves its place once."""

import secrets

import pytest

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from marketplace.errors import MarketError
from marketplace.machines import service as machines
from marketplace.payouts import service
from marketplace.payouts.errors import PayoutRefused
from marketplace.payouts.releases.service import give_back_due, release_machine
from marketplace.payouts.repository import PayoutRepository
from marketplace.payouts.schedule import Schedule
from marketplace.payouts.sending import record, submit, take
from marketplace.payouts.terms import NEVER_S
from marketplace.standing import service as standing
from protocol.identity import KeyPair
from tests.marketplace.payouts.world import DAY_S
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals
from tests.marketplace.world import DOLLAR

pytestmark = on_postgresql


@pytest.fixture
def account(pay):
    return pay.account(cents=2000)


def reserving(pay, account, payout_id=None):
    payout_id = payout_id or secrets.token_bytes(16)
    return lambda session: (
        service.reserve(
            session, account, payout_id, origin=Schedule.MANUAL, now_s=pay.now
        ).amount_cents
    )


def race(pay, held, *works, **more):
    database = pay.market.database
    return overlapping(database, held, *(in_transaction(database, work) for work in works), **more)


def test_what_is_payable_is_in_one_of_two_payouts(pay, account):
    outcomes = race(pay, reserving(pay, account), reserving(pay, account))
    assert outcomes[0] == 2000
    assert refusals(outcomes) == [PayoutRefused]
    assert (pay.payable_cents(account), pay.in_transit_cents(account)) == (0, 2000)


def test_one_payout_asked_for_twice_is_one(pay, account):
    work = reserving(pay, account, b"p" * 16)
    assert race(pay, work, work) == [2000, 2000]
    assert pay.in_transit_cents(account) == 2000


def test_two_workers_send_a_payout_once(pay, account):
    payout = pay.reserve(account)
    # the first worker has claimed it and not committed
    outcomes = overlapping(
        pay.market.database,
        lambda session: PayoutRepository(session).lock(payout) is not None,
        lambda: take(pay.market),
        lambda: take(pay.market),
    )
    attempts = [attempt for _, attempt in outcomes[1:] if attempt is not None]
    assert len(attempts) == 1
    record(pay.market, attempts[0], submit(pay.market, attempts[0]))
    assert pay.state(payout) == "submitted"
    assert take(pay.market) == (False, None)


def test_a_payout_that_is_being_sent_is_not_cancelled_beside_it(pay, account):
    payout = pay.reserve(account)
    outcomes = overlapping(
        pay.market.database,
        lambda session: PayoutRepository(session).lock(payout) is not None,
        lambda: take(pay.market)[1],
        in_transaction(
            pay.market.database,
            lambda session: service.cancel(session, payout, "operator", now_s=pay.now),
        ),
    )
    assert outcomes[1] is not None
    assert len(refusals(outcomes)) == 1
    assert isinstance(outcomes[2], MarketError)
    assert pay.in_transit_cents(account) == 2000


def test_an_answer_that_two_workers_bring_is_booked_once(pay, account):
    payout = pay.reserve(account)
    _, attempt = take(pay.market)
    made = submit(pay.market, attempt)
    overlapping(
        pay.market.database,
        lambda session: PayoutRepository(session).lock(payout) is not None,
        lambda: record(pay.market, attempt, made),
        lambda: record(pay.market, attempt, made),
    )
    assert pay.state(payout) == "submitted"
    assert (pay.payable_cents(account), pay.in_transit_cents(account)) == (0, 0)
    assert pay.alarms() == []


@pytest.fixture
def machine(pay):
    """It has earned a dollar of an account of its owner's kin, long enough ago."""
    machine, owner = str(KeyPair.generate().peer_id), pay.account()
    pay.bind(machine, owner)
    buyer = pay.account(ready=False)
    pay.owner = owner
    pay.settle(machine, buyer, 10 * DOLLAR)
    pay.pass_time(40 * DAY_S)
    return machine


def released_nanos(pay):
    places = (AccountCode.PROVIDER_PAYABLE, AccountCode.PROVIDER_HELD)
    return sum(pay.balance(place, pay.owner) for place in places)


def releasing(pay, machine):
    return lambda session: release_machine(session, machine, machines.account_of, now_s=pay.now)


def test_a_day_of_a_machine_is_released_by_one_of_two_workers(pay, machine):
    work = releasing(pay, machine)
    assert race(pay, work, work) == [1, 0]
    assert released_nanos(pay) == 10 * DOLLAR


def test_a_frozen_account_releases_nothing_after_its_freeze(pay, machine):
    def freeze(session):
        standing.freeze(session, pay.owner, "look", now_s=pay.now)

    # who had begun goes on; whoever begins then does nothing
    race(pay, freeze, releasing(pay, machine))
    with pay.transaction() as session:
        assert releasing(pay, machine)(session) == 0


def test_a_held_part_is_given_back_by_one_of_two_workers(pay, machine):
    with pay.transaction() as session:
        releasing(pay, machine)(session)
    assert pay.balance(AccountCode.PROVIDER_HELD, pay.owner) > 0
    now_s = pay.now + 400 * DAY_S
    assert now_s < NEVER_S

    def give(session):
        return give_back_due(session, now_s=now_s, limit=10)

    one, other = race(pay, give, give)
    assert one > 0
    assert other == 0
    assert released_nanos(pay) == 10 * DOLLAR
    assert pay.balance(AccountCode.PROVIDER_HELD, pay.owner) == 0


def test_what_is_parked_from_a_reserve_is_not_given_back_beside_it(pay, machine):
    """A dispute takes from PROVIDER_HELD while the reserve becomes payable."""
    with pay.transaction() as session:
        releasing(pay, machine)(session)
    held = AccountRef(AccountCode.PROVIDER_HELD, pay.owner)
    taken = pay.balance(AccountCode.PROVIDER_HELD, pay.owner) // 2

    def park(session):
        Book(session).transfer(
            held, AccountRef(AccountCode.DISPUTED, "l"), taken, code="park", ref="d:l:1",
            now_s=pay.now,
        )  # fmt: skip

    def give(session):
        return give_back_due(session, now_s=pay.now + 400 * DAY_S, limit=10)

    outcomes = race(pay, park, give)
    assert refusals(outcomes) == []
    assert pay.balance(AccountCode.PROVIDER_HELD, pay.owner) == 0
    assert released_nanos(pay) == 10 * DOLLAR - taken
