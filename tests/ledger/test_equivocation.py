"""Payers that sign two things: kept as proof, logged, closed, and paid the larger of the two."""

import pytest

from ledger.audit import audit
from ledger.contradiction import EquivocationProof, verify_proof
from ledger.equivocation import load_proof
from ledger.invariants import check
from ledger.leaf import EquivocationLeaf, decode_leaf, encode_leaf
from ledger.log import Log, publish_checkpoint
from ledger.settle_window import settle_ready
from tests.ledger.world import (
    MARKET,
    NOW_S,
    ORIGIN,
    SETTLE_BY_S,
    accept,
    id_of,
    lease_of,
    leased_hold,
    receipt_of,
    receipt_record,
)
from tests.postgres import both_engines

pytestmark = both_engines

LEASE = lease_of("lease", "hold")
SMALL, LARGE = receipt_of(LEASE, 1, 10), receipt_of(LEASE, 1, 30)
LARGE_NANOS = receipt_record(LEASE, 1, 30).amount_nanos


@pytest.fixture
def leased(session):
    leased_hold(session, "hold", [LEASE])
    return session


def settle(session):
    return settle_ready(session, now_s=NOW_S, limit=10)


def problems(session, change=lambda leaf: leaf):
    note = publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
    leaves = [encode_leaf(change(decode_leaf(leaf))) for leaf in Log(session).page(0, 100)]
    return audit(leaves, note.note, MARKET.peer_id, note.totals).problems


@pytest.mark.parametrize(
    "batches",
    [
        [[SMALL], [LARGE]],
        [[LARGE], [SMALL]],
        [[SMALL, LARGE]],
        [[LARGE], [receipt_of(LEASE, 2, 10)]],
        [[receipt_of(LEASE, 2, 10)], [LARGE]],
    ],
    ids=["larger later", "smaller later", "in one batch", "later says less", "earlier says more"],
)
def test_both_are_kept_and_the_larger_is_paid_at_once(leased, batches):
    outcomes = [accept(leased, *batch) for batch in batches]
    assert [o.status for batch in outcomes for o in batch].count("rejected") == 1
    proof = load_proof(leased, LEASE.lease_id)
    verify_proof(EquivocationProof.decode(proof.encode()), MARKET.peer_id)
    (settled,) = settle(leased)
    assert settled.credits[0].nanos == LARGE_NANOS
    assert check(leased) == []
    assert problems(leased) == ()


def test_nothing_more_counts_under_the_lease(leased):
    accept(leased, SMALL)
    accept(leased, LARGE)
    (outcome,) = accept(leased, receipt_of(LEASE, 2, 40))
    assert outcome.status == "rejected"
    assert "closed the session" in outcome.reason


def test_one_proof_a_lease_is_kept(leased):
    accept(leased, SMALL)
    first = accept(leased, LARGE)
    accept(leased, receipt_of(LEASE, 1, 50))
    assert first[0].status == "rejected"
    assert load_proof(leased, LEASE.lease_id).second == LARGE
    size = Log(leased).size
    accept(leased, LARGE)
    assert Log(leased).size == size


def test_what_is_settled_stands(leased):
    accept(leased, receipt_of(LEASE, 1, 10, final=True))
    settle_ready(leased, now_s=SETTLE_BY_S + 1, limit=10)
    accept(leased, LARGE)
    assert load_proof(leased, LEASE.lease_id) is None
    assert problems(leased) == ()


def test_an_honest_refusal_proves_nothing(leased):
    accept(leased, receipt_of(LEASE, 1, 10, final=True))
    outcome = accept(leased, receipt_of(LEASE, 3, 10, final=True), now_s=SETTLE_BY_S + 5)
    assert outcome[0].status == "rejected"
    assert load_proof(leased, LEASE.lease_id) is None


def test_the_audit_names_a_proof_that_proves_nothing(leased):
    accept(leased, SMALL)
    accept(leased, LARGE)

    def harmless(leaf):
        if not isinstance(leaf, EquivocationLeaf):
            return leaf
        return EquivocationLeaf(leaf.lease_envelope, leaf.first, leaf.first)

    assert any("can be true" in problem for problem in problems(leased, harmless))


def test_there_is_no_proof_against_the_honest(leased):
    accept(leased, SMALL)
    assert load_proof(leased, LEASE.lease_id) is None
    assert load_proof(leased, id_of("unknown")) is None
