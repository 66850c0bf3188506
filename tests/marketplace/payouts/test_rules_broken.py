"""The rules of payouts see what they are for: each is broken by hand and its sentence must come."""

import re

import pytest
from sqlalchemy import text

from ledger.accounts import AccountCode, AccountRef
from marketplace.payouts import books
from marketplace.payouts.jobs import recover, release, send
from protocol.identity import KeyPair
from tests.ledger.world import only_sqlite, without_triggers
from tests.marketplace.payouts.world import DAY_S
from tests.marketplace.world import DOLLAR

pytestmark = only_sqlite

_TRANSFER = "UPDATE ledger_transfer SET {} WHERE code = '{}'"
_MORE = "amount_nanos = amount_nanos + 1"

BROKEN = (
    (_TRANSFER.format(_MORE, "payout"), "I11: payout .* and its payout says"),
    (_TRANSFER.format(_MORE, "payout_sent"), "I11: payout .* and its payout_sent says"),
    (
        _TRANSFER.format("code = 'payout_failed'", "payout_sent"),
        "I11: payout .* is submitted and its payout_failed says",
    ),
    (_TRANSFER.format("ref = 'x'", "payout_sent"), "I11: transfer payout_sent x has no payout"),
    (
        _TRANSFER.format("credit = 'processor_pending:'", "payout_sent"),
        "I11: payouts with a transfer sum to",
    ),
    (
        "UPDATE market_payout SET reversed_cents = 501 WHERE reversed_cents = 500",
        "I11: .*came back",
    ),
    ("UPDATE market_payout SET state = 'reversed' WHERE reversed_cents = 500", "I11: .*came back"),
    (
        "UPDATE ledger_account SET debits_posted = debits_posted + 1"
        " WHERE code = 'provider_in_transit'",
        "I11: provider_in_transit:.* open payouts",
    ),
    (_TRANSFER.format(_MORE, "release"), "releases: release .* differs from its postings"),
    (_TRANSFER.format(_MORE, "hold_back"), "releases: release .* differs from its postings"),
    (_TRANSFER.format("ref = 'x'", "hold_back"), "releases: posting hold_back x has no release"),
    (
        "UPDATE market_release SET credited_nanos = credited_nanos + 1",
        "releases: release .* settlement credited",
    ),
    (
        "DELETE FROM market_held;"
        "DELETE FROM market_release WHERE period_s = (SELECT MIN(period_s) FROM market_release)",
        "releases: credits of provider_earned:.* were passed over",
    ),
    ("DELETE FROM market_held", "releases: the held parts of"),
    ("UPDATE market_held SET given_back_nanos = 1", "releases: a held part of .* was given back"),
)


@pytest.fixture
def busy(pay):
    """A payout that came back in part, one in transit, and two days released."""
    sent = pay.reserve(pay.account(cents=2000))
    send(pay.market)
    pay.processor.reverse(sent.hex(), 500)
    pay.event("transfer.reversed", "tr_0")
    recover(pay.market)
    machine = str(KeyPair.generate().peer_id)
    pay.bind(machine, pay.account())
    buyer = pay.account(ready=False, age_s=400 * DAY_S)
    pay.clock.now -= 40 * DAY_S
    cash = AccountRef(AccountCode.BUYER_CASH, buyer)
    pay.post(AccountRef(AccountCode.PROCESSOR_PENDING), cash, 600 * DOLLAR, "topup")
    pay.pass_time(40 * DAY_S)
    for _ in range(2):
        pay.settle(machine, buyer, 10 * DOLLAR)
        pay.pass_time(DAY_S)
    pay.pass_time(15 * DAY_S)
    assert release(pay.market) == 2
    pay.reserve(pay.account(cents=3000))
    return pay


@pytest.mark.parametrize(("statement", "sentence"), BROKEN)
def test_a_broken_rule_is_named(busy, statement, sentence):
    with busy.reading() as session:
        session.execute(text("PRAGMA ignore_check_constraints=ON"))
        without_triggers(session, "ledger_transfer")
        for part in statement.split(";"):
            assert session.execute(text(part)).rowcount > 0
        said = [f"{each.invariant}: {each.detail}" for each in books.check(session)]
        session.rollback()
    assert any(re.match(sentence, line) for line in said), said
