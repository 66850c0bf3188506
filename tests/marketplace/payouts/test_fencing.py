"""Who was overtaken changes nothing; a key is one key; and what comes back comes back once."""

import pytest

from marketplace.payments.processor import NANOS_PER_CENT, ProcessorRefused, RecipientState
from marketplace.payouts import service
from marketplace.payouts.errors import PayoutStateInvalid
from marketplace.payouts.jobs import recover, send
from marketplace.payouts.outbox import service as outbox
from marketplace.payouts.outbox.service import Topic
from marketplace.payouts.recovery import resolve, take_overdue
from marketplace.payouts.recovery_rules import KEY_SAFE_S, LOOK_AGAIN_S
from marketplace.payouts.repository import PayoutRepository
from marketplace.payouts.schedule import due_at
from marketplace.payouts.sending import DOUBTFUL_CODES, NoAnswer, record, submit, take
from marketplace.payouts.service import SUBMIT_S
from marketplace.standing import service as standing
from tests.marketplace.payouts.processor import KEY_LIFE_S, Trouble
from tests.postgres import both_engines

pytestmark = both_engines


@pytest.fixture
def account(pay):
    return pay.account(cents=2000)


@pytest.fixture
def payout(pay, account):
    return pay.reserve(account)


def cancel(pay, payout):
    with pay.transaction() as session:
        service.cancel(session, payout, "operator", now_s=pay.now)


class TestOvertaken:
    def test_a_refusal_does_not_end_what_another_is_asking_for(self, pay, account, payout):
        _, first = take(pay.market)
        pay.processor.troubles.append(Trouble.REFUSED)
        refusal = submit(pay.market, first)
        pay.processor.keys.clear()  # this refusal was one that is not kept
        pay.pass_time(SUBMIT_S)
        second = take_overdue(pay.market)
        record(pay.market, first, refusal)
        assert (pay.state(payout), pay.payable_cents(account)) == ("submitting", 0)
        record(pay.market, second, submit(pay.market, second))
        assert pay.state(payout) == "submitted"

    def test_a_look_of_one_that_was_overtaken_decides_nothing(self, pay, payout):
        take(pay.market)
        pay.pass_time(SUBMIT_S)
        first = take_overdue(pay.market)
        pay.pass_time(SUBMIT_S)
        assert take_overdue(pay.market) is not None
        assert resolve(pay.market, first, []) is None

    def test_the_same_look_begins_one_new_key(self, pay, payout):
        take(pay.market)
        pay.pass_time(KEY_SAFE_S)
        recover(pay.market)
        pay.pass_time(LOOK_AGAIN_S)
        late = take_overdue(pay.market)
        assert resolve(pay.market, late, []).attempt == 2
        assert resolve(pay.market, late, []) is None
        assert pay.payout(payout).attempt == 2

    def test_an_attempts_last_second_is_not_its_workers(self, pay, payout):
        _, attempt = take(pay.market)
        pay.pass_time(SUBMIT_S)
        assert isinstance(submit(pay.market, attempt), NoAnswer)
        assert pay.processor.asked == []


class TestKeys:
    def test_a_request_that_arrives_after_the_one_that_repeats_it_does_nothing(self, pay, payout):
        pay.processor.troubles.append(Trouble.LATE)
        send(pay.market)
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        pay.processor.deliver()
        assert len(pay.processor.transfers) == 1
        assert (pay.state(payout), pay.alarms()) == ("submitted", [])
        assert [attempt for _, attempt, _ in pay.processor.asked] == [1, 1]

    def test_a_key_is_given_up_while_the_processor_still_remembers_it(self):
        # the last request under it may begin a moment before, and take as long as its attempt
        assert KEY_SAFE_S + SUBMIT_S < KEY_LIFE_S

    def test_a_new_key_is_another_and_has_its_own_day(self, pay, payout):
        pay.processor.troubles.append(Trouble.ERROR_KEPT)
        send(pay.market)
        pay.pass_time(KEY_SAFE_S)
        recover(pay.market)
        pay.processor.troubles.append(Trouble.LOST_BEFORE)
        pay.pass_time(LOOK_AGAIN_S)
        recover(pay.market)
        assert [attempt for _, attempt, _ in pay.processor.asked] == [1, 2]
        # what the first key missed says nothing of the second
        pay.pass_time(KEY_SAFE_S)
        recover(pay.market)
        assert pay.payout(payout).attempt == 2
        pay.pass_time(LOOK_AGAIN_S)
        recover(pay.market)
        assert [attempt for _, attempt, _ in pay.processor.asked] == [1, 2, 3]


class TestOnce:
    def test_what_was_sent_is_never_claimed_again(self, pay, payout):
        send(pay.market)
        pay.pass_time(10 * outbox.CLAIM_S)
        assert take(pay.market) == (False, None)

    def test_what_was_canceled_before_it_was_sent_is_not_sent(self, pay, account, payout):
        cancel(pay, payout)
        assert take(pay.market) == (True, None)
        assert (pay.state(payout), pay.payable_cents(account)) == ("canceled", 2000)

    def test_what_is_canceled_cannot_be_canceled_again(self, pay, payout):
        cancel(pay, payout)
        with pytest.raises(PayoutStateInvalid):
            cancel(pay, payout)


class TestBack:
    def test_a_transfer_that_was_back_before_we_knew_of_it(self, pay, account, payout):
        _, attempt = take(pay.market)
        submit(pay.market, attempt)
        pay.processor.reverse(payout.hex())
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        assert (pay.state(payout), pay.payable_cents(account)) == ("reversed", 2000)

    def test_more_than_was_sent_cannot_come_back(self, pay, account, payout):
        send(pay.market)
        pay.processor.reverse(payout.hex(), 2001)
        pay.event("transfer.reversed", "tr_0")
        recover(pay.market)
        assert (pay.state(payout), pay.payable_cents(account)) == ("submitted", 0)

    def test_another_transfer_of_the_group_that_came_back_is_not_ours(self, pay, account, payout):
        send(pay.market)
        ours = list(pay.processor.transfers)
        pay.processor.create_transfer(payout.hex(), 2000, f"acct_{account}", attempt=9)
        pay.processor.reverse(payout.hex())
        pay.processor.transfers[:1] = ours
        pay.event("transfer.reversed", "tr_1", transfer_group=payout.hex())
        recover(pay.market)
        assert (pay.state(payout), pay.payable_cents(account)) == ("submitted", 0)

    def test_a_processor_that_does_not_say_is_asked_again(self, pay, account, payout):
        send(pay.market)
        pay.processor.reverse(payout.hex())
        pay.event("transfer.reversed", "tr_0")
        pay.processor.deaf = True
        recover(pay.market)
        pay.processor.deaf = False
        pay.pass_time(outbox.BACK_OFF_S_MAX)
        recover(pay.market)
        assert (pay.state(payout), pay.payable_cents(account)) == ("reversed", 2000)


@pytest.mark.parametrize("code", sorted(DOUBTFUL_CODES))
def test_a_refusal_that_says_nothing_of_the_transfer_is_looked_up(pay, account, payout, code):
    _, attempt = take(pay.market)
    pay.processor.create_transfer(attempt.name, 2000, attempt.recipient, attempt=1)
    pay.processor.keys[attempt.name, 1] = (pay.now, ProcessorRefused(code, "The key was used."))
    record(pay.market, attempt, submit(pay.market, attempt))
    assert (pay.state(payout), pay.payable_cents(account)) == ("submitting", 0)
    pay.pass_time(SUBMIT_S)
    recover(pay.market)
    assert pay.state(payout) == "submitted"


@pytest.mark.parametrize("how", ["done", "failed"])
def test_a_letter_that_is_asked_for_again_meanwhile_is_due(pay, how):
    def put():
        with pay.transaction() as session:
            outbox.put(session, Topic.LOOK, "x", {"payout": "x"}, now_s=pay.now)

    def claim():
        with pay.transaction() as session:
            return outbox.claim(session, Topic.LOOK, now_s=pay.now)

    put()
    letter = claim()
    put()
    with pay.transaction() as session:
        if how == "done":
            outbox.finish(session, letter, now_s=pay.now)
        else:
            outbox.fail(session, letter, "no", now_s=pay.now)
    assert claim() is not None


def test_nobody_is_planned_for_who_would_be_refused(pay, account):
    frozen, unready = pay.account(cents=2000), pay.account(cents=2000)
    recipient = f"acct_{unready}"
    pay.processor.states[recipient] = RecipientState(recipient, False, ("a document",))
    pay.event("account.updated", recipient)
    recover(pay.market)
    with pay.transaction() as session:
        standing.freeze(session, frozen, "operator", now_s=pay.now)
        due = PayoutRepository(session).accounts_due(due_at(pay.now), after="", limit=9)
    assert due == [(account, 2000 * NANOS_PER_CENT)]
