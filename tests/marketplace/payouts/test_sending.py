"""A payout is sent exactly once, whatever the processor answers and wherever we die."""

import pytest

from marketplace.errors import Conflict
from marketplace.payouts import service
from marketplace.payouts.errors import PayoutRefused, PayoutStateInvalid, RecipientMissing
from marketplace.payouts.jobs import plan, recover, send
from marketplace.payouts.recovery_rules import KEY_SAFE_S, LOOK_AGAIN_S
from marketplace.payouts.sending import record, submit, take
from marketplace.payouts.service import SUBMIT_S
from marketplace.standing import service as standing
from tests.marketplace.payouts.processor import ProcessDied, Trouble
from tests.postgres import both_engines

pytestmark = both_engines


class TestReserve:
    def test_takes_whole_cents_and_leaves_the_rest_payable(self, pay):
        account = pay.account()
        pay.earn(account, 1234, nanos=7_000_000)
        payout = pay.reserve(account)
        assert pay.payout(payout).amount_cents == 1234
        assert pay.in_transit_cents(account) == 1234
        assert pay.state(payout) == "reserved"
        send(pay.market)
        assert pay.state(payout) == "submitted"
        assert pay.in_transit_cents(account) == 0

    def test_the_same_id_is_the_same_payout(self, pay):
        account = pay.account(cents=2000)
        payout = pay.reserve(account)
        send(pay.market)
        pay.earn(account, 3000)
        assert pay.reserve(account, payout) == payout
        assert pay.payout(payout).amount_cents == 2000
        assert pay.payable_cents(account) == 3000

    def test_another_accounts_id_is_refused(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        with pytest.raises(Conflict):
            pay.reserve(pay.account(cents=2000), payout)

    def test_below_the_minimum_nothing_is_reserved(self, pay):
        with pytest.raises(PayoutRefused) as refused:
            pay.reserve(pay.account(cents=999))
        assert refused.value.reason == "below_minimum"

    def test_one_is_open_at_a_time(self, pay):
        account = pay.account(cents=2000)
        pay.reserve(account)
        pay.earn(account, 2000)
        with pytest.raises(PayoutRefused) as refused:
            pay.reserve(account)
        assert refused.value.reason == "open_payout"

    def test_without_a_recipient_it_is_refused(self, pay):
        with pytest.raises(RecipientMissing):
            pay.reserve(pay.account(ready=False, cents=2000))

    def test_a_frozen_account_is_refused(self, pay):
        account = pay.account(cents=2000)
        with pay.transaction() as session:
            standing.freeze(session, account, "operator", now_s=pay.now)
        with pytest.raises(PayoutRefused) as refused:
            pay.reserve(account)
        assert refused.value.reason == "frozen"


class TestLostReplies:
    @pytest.mark.parametrize("trouble", [Trouble.LOST_BEFORE, Trouble.LOST_AFTER, Trouble.BUSY])
    def test_one_transfer_comes_of_it(self, pay, trouble):
        account = pay.account(cents=2000)
        payout = pay.reserve(account)
        pay.processor.troubles.append(trouble)
        send(pay.market)
        assert pay.state(payout) == "submitting"
        assert recover(pay.market) == 0, "the attempt still has time"
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        assert pay.state(payout) == "submitted"
        assert len(pay.processor.transfers) == 1
        assert pay.alarms() == []

    @pytest.mark.parametrize("trouble", [Trouble.DIES_BEFORE, Trouble.DIES_AFTER])
    def test_a_process_that_dies_at_the_call(self, pay, trouble):
        payout = pay.reserve(pay.account(cents=2000))
        pay.processor.troubles.append(trouble)
        with pytest.raises(ProcessDied):
            send(pay.market)
        assert send(pay.market) == 0, "what was begun is not begun again"
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        assert pay.state(payout) == "submitted"
        assert len(pay.processor.transfers) == 1

    def test_an_answer_that_was_never_committed(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        _, attempt = take(pay.market)
        submit(pay.market, attempt)
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        assert pay.state(payout) == "submitted"
        assert pay.processor.calls == 1, "found, not sent again"

    def test_an_answer_that_comes_after_the_recovery(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        _, attempt = take(pay.market)
        sent = submit(pay.market, attempt)
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        record(pay.market, attempt, sent)
        assert pay.state(payout) == "submitted"
        assert pay.alarms() == []

    def test_an_attempt_that_slept_is_not_sent(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        _, attempt = take(pay.market)
        pay.pass_time(SUBMIT_S)
        record(pay.market, attempt, submit(pay.market, attempt))
        assert pay.processor.calls == 0
        assert pay.state(payout) == "submitting"

    def test_a_processor_that_does_not_say_changes_nothing(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        pay.processor.troubles.append(Trouble.LOST_AFTER)
        send(pay.market)
        pay.processor.deaf = True
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        assert pay.state(payout) == "submitting"
        pay.processor.deaf = False
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        assert pay.state(payout) == "submitted"
        assert len(pay.processor.transfers) == 1


class TestOldKeys:
    def test_after_23_hours_two_looks_an_hour_apart_then_a_new_key_and_an_alarm(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        pay.processor.troubles.append(Trouble.ERROR_KEPT)
        send(pay.market)
        pay.pass_time(KEY_SAFE_S)
        recover(pay.market)
        pay.pass_time(LOOK_AGAIN_S - 1)
        recover(pay.market)
        assert pay.processor.calls == 1
        pay.pass_time(1)
        recover(pay.market)
        assert pay.state(payout) == "submitted"
        assert pay.payout(payout).attempt == 2
        assert pay.alarms() == ["new_key"]
        assert len(pay.processor.transfers) == 1

    def test_a_transfer_that_shows_up_between_the_looks_is_adopted(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        _, attempt = take(pay.market)
        pay.pass_time(KEY_SAFE_S)
        recover(pay.market)
        pay.processor.create_transfer(
            attempt.name, attempt.amount_cents, attempt.recipient, attempt=1
        )
        pay.pass_time(LOOK_AGAIN_S)
        recover(pay.market)
        assert pay.state(payout) == "submitted"
        assert len(pay.processor.transfers) == 1


class TestDoubts:
    def test_two_transfers_hold_the_payout(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        _, attempt = take(pay.market)
        for number in (1, 2):
            pay.processor.create_transfer(
                attempt.name, attempt.amount_cents, attempt.recipient, attempt=number
            )
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        assert (pay.state(payout), pay.payout(payout).reason) == ("held", "two_transfers")
        assert pay.alarms() == ["two_transfers"]
        # the operator takes one back at the processor and lets the payout go on
        pay.processor.transfers[0] = pay.processor.transfers.pop()
        with pay.transaction() as session:
            service.resume(session, payout, now_s=pay.now)
        recover(pay.market)
        assert pay.state(payout) == "submitted"

    def test_another_amount_holds_the_payout(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        _, attempt = take(pay.market)
        pay.processor.create_transfer(attempt.name, 1999, attempt.recipient, attempt=1)
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        assert (pay.state(payout), pay.alarms()) == ("held", ["other_transfer"])


class TestRefusals:
    def test_a_refusal_gives_the_money_back_with_the_reason(self, pay):
        account = pay.account(cents=2000)
        payout = pay.reserve(account)
        pay.processor.troubles.append(Trouble.REFUSED)
        send(pay.market)
        assert (pay.state(payout), pay.payout(payout).reason) == ("failed", "account_closed")
        assert pay.payable_cents(account) == 2000

    def test_too_little_at_the_processor_is_tried_later_as_a_new_payout(self, pay):
        account = pay.account(cents=2000)
        pay.processor.available = 1999
        payout = pay.reserve(account)
        send(pay.market)
        assert pay.payout(payout).reason == "balance_insufficient"
        assert plan(pay.market) == 0
        pay.processor.available = 5000
        assert plan(pay.market) == 0, "not so soon"
        pay.pass_time(6 * 3600)
        assert plan(pay.market) == 1
        send(pay.market)
        assert [t.amount_cents for t in pay.processor.transfers] == [2000]

    def test_a_refusal_of_an_attempt_that_was_taken_over_does_nothing(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        _, attempt = take(pay.market)
        pay.processor.troubles.append(Trouble.REFUSED)
        refusal = submit(pay.market, attempt)
        pay.processor.keys.clear()  # this refusal was one that is not kept
        pay.pass_time(SUBMIT_S)
        recover(pay.market)
        record(pay.market, attempt, refusal)
        assert pay.state(payout) == "submitted"


class TestFreezing:
    def test_a_reserved_payout_is_held_and_goes_on_afterwards(self, pay):
        account = pay.account(cents=2000)
        payout = pay.reserve(account)
        with pay.transaction() as session:
            standing.freeze(session, account, "chargeback dp_1", now_s=pay.now)
        send(pay.market)
        recover(pay.market)
        assert (pay.state(payout), pay.payout(payout).reason) == ("held", "frozen")
        with pay.transaction() as session:
            standing.unfreeze(session, account, now_s=pay.now)
        recover(pay.market)
        send(pay.market)
        assert pay.state(payout) == "submitted"

    def test_a_held_payout_that_was_never_sent_can_be_canceled(self, pay):
        account = pay.account(cents=2000)
        payout = pay.reserve(account)
        with pay.transaction() as session:
            standing.freeze(session, account, "operator", now_s=pay.now)
        send(pay.market)
        with pay.transaction() as session:
            service.cancel(session, payout, "operator", now_s=pay.now)
        assert (pay.state(payout), pay.payable_cents(account)) == ("canceled", 2000)

    def test_one_that_may_have_been_sent_cannot(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        take(pay.market)
        with pytest.raises(Conflict), pay.transaction() as session:
            service.cancel(session, payout, "operator", now_s=pay.now)

    def test_only_a_held_one_can_be_resumed(self, pay):
        payout = pay.reserve(pay.account(cents=2000))
        send(pay.market)
        with pytest.raises(PayoutStateInvalid), pay.transaction() as session:
            service.resume(session, payout, now_s=pay.now)
