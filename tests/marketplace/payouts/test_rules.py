"""States, schedule and recovery: the rules alone."""

import pytest

from marketplace.payments.processor import NANOS_PER_CENT, TransferRecord
from marketplace.payouts.errors import PayoutStateInvalid
from marketplace.payouts.recovery_rules import (
    KEY_SAFE_S,
    LOOK_AGAIN_S,
    Adopt,
    Attempt,
    Hold,
    NewKey,
    SameKey,
    Wait,
    decide,
)
from marketplace.payouts.schedule import PAYOUT_CENTS_MAX, WEEK_S, due_at, payout_cents
from marketplace.payouts.states import IN_TRANSIT, OPEN, TRANSITIONS, PayoutState, require_step

START_S = 1_800_000_000
PAYOUT = bytes(range(16))
GROUP = PAYOUT.hex()


def attempt(**changes):
    fields = {
        "payout_id": PAYOUT,
        "recipient": "acct_1",
        "amount_cents": 500,
        "attempt": 1,
        "attempt_at_s": START_S,
        "deadline_s": START_S + 120,
    }
    return Attempt(**{**fields, **changes})


def transfer(name="tr_1", *, group=GROUP, to="acct_1", cents=500, back=0):
    return TransferRecord(name, group, to, cents, back, START_S)


class TestStates:
    def test_every_state_has_its_row(self):
        assert TRANSITIONS.keys() == set(PayoutState)

    def test_an_end_is_an_end(self):
        ends = {state for state, targets in TRANSITIONS.items() if not targets}
        assert ends == {PayoutState.REVERSED, PayoutState.CANCELED}

    def test_money_in_transit_leaves_by_an_end_of_it_only(self):
        outside = {target for state in IN_TRANSIT for target in TRANSITIONS[state]} - IN_TRANSIT
        assert outside == {PayoutState.SUBMITTED, PayoutState.FAILED, PayoutState.CANCELED}
        assert {PayoutState.DRAFT} == OPEN - IN_TRANSIT

    @pytest.mark.parametrize("target", [PayoutState.RESERVED, PayoutState.SUBMITTING])
    def test_what_was_sent_is_never_sent_again(self, target):
        for state in (PayoutState.SUBMITTED, PayoutState.PAID, PayoutState.REVERSED):
            with pytest.raises(PayoutStateInvalid):
                require_step(state, target)


class TestSchedule:
    @pytest.mark.parametrize(
        ("nanos", "minimum", "cents"),
        [
            (999 * NANOS_PER_CENT, 1000, 0),
            (1000 * NANOS_PER_CENT - 1, 1000, 0),
            (1001 * NANOS_PER_CENT - 1, 1000, 1000),
            (10**18, 1000, PAYOUT_CENTS_MAX),
            (0, 100, 0),
        ],
    )
    def test_whole_cents_from_the_minimum_on(self, nanos, minimum, cents):
        assert payout_cents(nanos, minimum) == cents

    def test_weeks_begin_on_monday(self):
        monday_s = 1_767_571_200  # 2026-01-05
        assert due_at(monday_s).week_s == monday_s
        assert due_at(monday_s - 1).week_s == monday_s - WEEK_S
        assert due_at(monday_s + WEEK_S - 1).week_s == monday_s


class TestRecovery:
    def test_found_is_adopted_however_old(self):
        for age_s in (0, KEY_SAFE_S, 10 * KEY_SAFE_S):
            assert decide(attempt(), [transfer()], now_s=START_S + age_s) == Adopt(transfer())

    def test_not_found_and_young_is_sent_again_under_the_same_key(self):
        assert decide(attempt(), [], now_s=START_S + KEY_SAFE_S - 1) == SameKey()

    def test_not_found_and_old_is_looked_for_twice(self):
        now_s = START_S + KEY_SAFE_S
        assert decide(attempt(), [], now_s=now_s) == Wait(now_s + LOOK_AGAIN_S, now_s)
        missed = attempt(missed_at_s=now_s)
        early = decide(missed, [], now_s=now_s + LOOK_AGAIN_S - 1)
        assert early == Wait(now_s + LOOK_AGAIN_S, now_s)
        assert decide(missed, [], now_s=now_s + LOOK_AGAIN_S) == NewKey()

    @pytest.mark.parametrize(
        "found",
        [
            [transfer(), transfer("tr_2")],
            [transfer(cents=499)],
            [transfer(to="acct_2")],
            [transfer(group="00" * 16)],
        ],
    )
    def test_a_doubt_holds(self, found):
        assert isinstance(decide(attempt(), found, now_s=START_S), Hold)

    def test_of_two_the_one_that_was_not_taken_back(self):
        found = [transfer(back=500), transfer("tr_2")]
        assert decide(attempt(), found, now_s=START_S) == Adopt(transfer("tr_2"))

    def test_one_that_was_taken_back_was_still_sent(self):
        assert decide(attempt(), [transfer(back=500)], now_s=START_S) == Adopt(transfer(back=500))
