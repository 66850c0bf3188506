"""The weekly schedule: for whom, and never beyond what the processor can send."""

import pytest

from marketplace.payouts.jobs import plan, send
from marketplace.payouts.schedule import MINIMUM_CENTS
from tests.postgres import both_engines

pytestmark = both_engines


def test_the_minimum_itself_is_enough(pay):
    pay.account(cents=MINIMUM_CENTS - 1)
    pay.account(cents=MINIMUM_CENTS)
    assert plan(pay.market) == 1


def test_who_asked_for_one_this_week_has_the_weekly_one_too(pay):
    account = pay.account(cents=2000)
    pay.reserve(account)
    send(pay.market)
    pay.earn(account, 2000)
    assert plan(pay.market) == 1
    send(pay.market)
    pay.earn(account, 2000)
    assert plan(pay.market) == 0, "one a week"


@pytest.mark.parametrize(("payable", "available"), [((3000, 2000), 2500), ((2000, 2000), 3999)])
def test_what_the_processor_has_is_promised_once(pay, payable, available):
    accounts = [pay.account(cents=cents) for cents in payable]
    pay.processor.available = available
    assert plan(pay.market) == 1
    assert sorted(map(pay.in_transit_cents, accounts)) == [0, 2000]
