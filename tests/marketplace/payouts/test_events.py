"""Events come twice, late and in any order; their amounts are never believed."""

import pytest

from marketplace.payouts.jobs import recover, send
from marketplace.payouts.outbox import service as outbox
from marketplace.payouts.outbox.service import ATTEMPTS_MAX, BACK_OFF_S_MAX, Topic
from marketplace.payouts.recovery import look_again
from marketplace.payouts.sending import record, submit, take
from marketplace.standing import service as standing
from tests.postgres import both_engines

pytestmark = both_engines


@pytest.fixture
def account(pay):
    return pay.account(cents=2000)


@pytest.fixture
def sent(pay, account):
    payout = pay.reserve(account)
    send(pay.market)
    return payout


class TestBank:
    def test_paid_and_told_twice(self, pay, account, sent):
        for _ in range(2):
            pay.event("payout.paid", "po_1", account=f"acct_{account}", created=pay.now)
        assert pay.state(sent) == "paid"

    def test_the_latest_word_counts_in_any_order(self, pay, account, sent):
        recipient = f"acct_{account}"
        pay.event("payout.failed", "po_1", account=recipient, created=pay.now + 20)
        pay.event("payout.paid", "po_1", account=recipient, created=pay.now + 10)
        assert (pay.state(sent), pay.payout(sent).reason) == ("failed", "bank_failed")
        assert pay.payable_cents(account) == 0, "the money is with the provider's account there"
        pay.event("payout.paid", "po_2", account=recipient, created=pay.now + 30)
        assert pay.state(sent) == "paid"

    def test_a_word_from_before_the_transfer_says_nothing(self, pay, account, sent):
        pay.event("payout.paid", "po_0", account=f"acct_{account}", created=pay.now - 1)
        assert pay.state(sent) == "submitted"

    def test_a_word_that_comes_before_our_commit_is_kept(self, pay, account):
        payout = pay.reserve(account)
        _, attempt = take(pay.market)
        made = submit(pay.market, attempt)
        pay.event("payout.paid", "po_1", account=f"acct_{account}", created=pay.now)
        record(pay.market, attempt, made)
        assert pay.state(payout) == "paid"

    @pytest.mark.parametrize("payload", [{}, {"account": 7}, {"account": "acct_x"}])
    def test_what_is_not_ours_does_nothing(self, pay, sent, payload):
        pay.event("payout.paid", "po_1", **payload)
        assert pay.state(sent) == "submitted"


class TestReversal:
    def test_the_money_is_payable_again(self, pay, account, sent):
        pay.processor.reverse(sent.hex())
        for _ in range(2):
            pay.event("transfer.reversed", "tr_0", amount_reversed=1)
        recover(pay.market)
        assert (pay.state(sent), pay.payable_cents(account)) == ("reversed", 2000)

    def test_an_event_without_a_reversal_moves_nothing(self, pay, account, sent):
        pay.event("transfer.reversed", "tr_0", amount_reversed=2000)
        recover(pay.market)
        assert (pay.state(sent), pay.payable_cents(account)) == ("submitted", 0)

    def test_part_of_it_and_then_the_rest(self, pay, account, sent):
        pay.processor.reverse(sent.hex(), 500)
        pay.event("transfer.updated", "tr_0")
        recover(pay.market)
        assert (pay.state(sent), pay.payable_cents(account)) == ("submitted", 500)
        assert pay.alarms() == ["partly_reversed"]
        pay.processor.reverse(sent.hex())
        pay.event("transfer.reversed", "tr_0")
        recover(pay.market)
        assert (pay.state(sent), pay.payable_cents(account)) == ("reversed", 2000)

    def test_a_transfer_that_nobody_awaits_freezes_the_account(self, pay, account):
        payout = pay.reserve(account)
        pay.processor.available = 0
        send(pay.market)
        pay.processor.available = 10_000
        stray = pay.processor.create_transfer(payout.hex(), 2000, f"acct_{account}", attempt=9)
        pay.event("transfer.created", stray.transfer_id, transfer_group=payout.hex())
        recover(pay.market)
        assert pay.alarms() == ["other_transfer"]
        with pay.reading() as session:
            assert standing.is_frozen(session, account)


class TestOrder:
    def test_created_before_our_commit_makes_the_recovery_look_at_once(self, pay, account):
        payout = pay.reserve(account)
        _, attempt = take(pay.market)
        made = submit(pay.market, attempt)
        pay.event("transfer.created", made.transfer_id, transfer_group=payout.hex())
        recover(pay.market)
        recover(pay.market)
        assert pay.state(payout) == "submitted"
        record(pay.market, attempt, made)
        assert pay.alarms() == []

    @pytest.mark.parametrize("group", [None, 7, "", "zz" * 16, "00" * 16])
    def test_a_strangers_group_does_nothing(self, pay, sent, group):
        pay.event("transfer.created", "tr_x", transfer_group=group)
        assert not look_again(pay.market)

    def test_a_recipient_that_changed_is_fetched(self, pay, account):
        recipient = f"acct_{account}"
        state = pay.processor.recipient_state(recipient)
        pay.processor.states[recipient] = type(state)(recipient, False, ("a document",))
        pay.event("account.updated", recipient)
        recover(pay.market)
        with pytest.raises(Exception, match="a document"):
            pay.reserve(account)


class TestOutbox:
    def put(self, pay):
        with pay.transaction() as session:
            outbox.put(session, Topic.LOOK, "x", {"payout": "x"}, now_s=pay.now)

    def claim(self, pay):
        with pay.transaction() as session:
            return outbox.claim(session, Topic.LOOK, now_s=pay.now)

    def test_a_claim_is_one_workers_until_its_time_is_over(self, pay):
        self.put(pay)
        self.put(pay)
        assert self.claim(pay) is not None
        assert self.claim(pay) is None
        pay.pass_time(outbox.CLAIM_S)
        assert self.claim(pay) is not None

    def test_what_is_done_is_done_unless_it_is_asked_for_again(self, pay):
        self.put(pay)
        letter = self.claim(pay)
        with pay.transaction() as session:
            outbox.finish(session, letter, now_s=pay.now)
        pay.pass_time(10 * outbox.CLAIM_S)
        assert self.claim(pay) is None
        self.put(pay)
        assert self.claim(pay) is not None

    def test_failures_come_later_and_later_and_end(self, pay):
        self.put(pay)
        for _ in range(ATTEMPTS_MAX):
            letter = self.claim(pay)
            with pay.transaction() as session:
                outbox.fail(session, letter, "no", now_s=pay.now)
            assert self.claim(pay) is None
            pay.pass_time(BACK_OFF_S_MAX)
        assert self.claim(pay) is None


class TestBankInDoubt:
    def test_it_has_no_word_in_what_the_processor_refused(self, pay, account):
        payout = pay.reserve(account)
        pay.processor.available = 0
        send(pay.market)
        pay.pass_time(10)
        pay.event("payout.paid", "po_1", account=f"acct_{account}", created=pay.now)
        assert (pay.state(payout), pay.payable_cents(account)) == ("failed", 2000)

    @pytest.mark.parametrize("kinds", [("paid", "failed"), ("failed", "paid")])
    def test_of_one_second_paid_counts_in_any_order(self, pay, account, sent, kinds):
        for kind in kinds:
            pay.event(f"payout.{kind}", "po_1", account=f"acct_{account}", created=pay.now)
        assert pay.state(sent) == "paid"

    def test_a_word_from_far_ahead_is_one_of_now(self, pay, account, sent):
        recipient = f"acct_{account}"
        pay.event("payout.failed", "po_1", account=recipient, created=pay.now + 10**6)
        assert pay.state(sent) == "failed"
        pay.pass_time(1)
        pay.event("payout.paid", "po_2", account=recipient, created=pay.now)
        assert pay.state(sent) == "paid"
