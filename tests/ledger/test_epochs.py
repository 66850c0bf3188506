"""Receipts of a repaired session: through epochs, in any order, each lease is paid its largest."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.accounts import AccountCode, AccountRef
from ledger.audit import audit
from ledger.book import Book
from ledger.invariants import check
from ledger.lanes import load_lanes
from ledger.log import Log, publish_checkpoint
from ledger.receipts import ReceiptStatus
from ledger.settle_window import mark_closed, settle_ready
from protocol.envelope import seal
from protocol.lease import Lease
from protocol.receipt import Receipt, cosign
from tests.ledger.world import (
    MARKET,
    NOW_S,
    ORIGIN,
    PAYER,
    PROVIDER,
    SETTLE_BY_S,
    accept,
    id_of,
    key_of,
    lease_of,
    leased_hold,
    receipt_of,
    receipt_record,
    scratch,
)

LEASE = lease_of("lease", "hold")
REPLACEMENT = key_of("replacement")
SECOND = lease_of("second", "replacement's hold", provider=REPLACEMENT)

rounds = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 4), st.booleans()), min_size=1, max_size=12
)
"""(whether an epoch begins, rows carried, whether a step has ended), one a receipt."""


def honest(lease: Lease, history, *, epoch: int) -> list[Receipt]:
    """What a payer signs over such a history."""
    receipts, tokens, steps = [], 0, 0
    for begins, rows, stepped in history:
        if begins:
            epoch, steps = epoch + 1, 0
        stepped = stepped or epoch == 0 or steps > 0
        rows = rows if stepped or epoch else 0
        tokens, steps = tokens + rows, steps + (stepped and rows > 0)
        record = receipt_record(lease, len(receipts) + 1, tokens)
        receipts.append(dataclasses.replace(record, epoch=epoch, steps=steps))
    return receipts


def cosigned(receipt: Receipt, provider) -> bytes:
    return cosign(seal(receipt, PAYER).encode(), provider).encode()


@given(rounds, rounds, st.data())
@settings(deadline=None, max_examples=30)
def test_each_lease_is_paid_its_largest_receipt_and_the_log_says_so(first, second, data):
    said = {
        LEASE.lease_id: (PROVIDER, honest(LEASE, first, epoch=0)),
        SECOND.lease_id: (REPLACEMENT, honest(SECOND, second, epoch=data.draw(st.integers(1, 9)))),
    }
    with scratch() as session:
        leased_hold(session, "hold", [LEASE])
        leased_hold(session, "replacement's hold", [SECOND])
        expected = 0
        for provider, receipts in said.values():
            sent = data.draw(st.lists(st.sampled_from(receipts), max_size=8))
            for start in range(0, len(sent), 3):
                batch = [cosigned(receipt, provider) for receipt in sent[start : start + 3]]
                outcomes = accept(session, *batch, provider=provider)
                assert ReceiptStatus.REJECTED not in {outcome.status for outcome in outcomes}
            amounts = [receipt.amount_nanos for receipt in sent]
            expected += max(amounts, default=0)
            largest = max(sent, key=lambda receipt: receipt.sequence, default=None)
            lane = load_lanes(session, [receipts[0].lease_id])[receipts[0].lease_id]
            assert lane.mark.epoch == (largest.epoch if largest else 0)
            assert lane.mark.steps == (largest.steps if largest else 0)
        for hold in ("hold", "replacement's hold"):
            mark_closed(session, id_of(hold))
        settle_ready(session, now_s=SETTLE_BY_S + 1, limit=10)
        paid = [
            Book(session)
            .balance(AccountRef(AccountCode.PROVIDER_EARNED, str(provider.peer_id)))
            .posted_nanos
            for provider, _ in said.values()
        ]
        assert sum(paid) == expected
        assert check(session) == []
        published = publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
        leaves = Log(session).page(0, 100)
    report = audit(leaves, published.note, MARKET.peer_id, published.totals)
    assert report.ok, report.problems
    assert report.credited_nanos == expected


def test_a_receipt_of_an_epoch_that_is_past_is_refused_once_a_later_one_counts(session):
    leased_hold(session, "hold", [LEASE])
    accept(session, receipt_of(LEASE, 1, 10))
    accept(session, receipt_of(LEASE, 2, 12, epoch=1, steps=2))
    (outcome,) = accept(session, receipt_of(LEASE, 3, 13))
    assert outcome.status is ReceiptStatus.REJECTED
    assert "says less" in outcome.reason


def test_an_earlier_epochs_receipt_that_comes_late_is_superseded(session):
    leased_hold(session, "hold", [LEASE])
    accept(session, receipt_of(LEASE, 2, 12, epoch=1, steps=2))
    (outcome,) = accept(session, receipt_of(LEASE, 1, 10))
    assert outcome.status is ReceiptStatus.SUPERSEDED
