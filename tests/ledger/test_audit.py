"""Replaying the log: honest logs pass, and every lie is named with the entry it is in."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.audit import PROBLEMS_MAX, audit, verify_consistency
from ledger.checkpoint import Checkpoint, sign_checkpoint
from ledger.errors import AuditFailed, ForkDetected
from ledger.leaf import LaneCredit, ReceiptLeaf, SettlementLeaf, encode_leaf
from ledger.log import Log, publish_checkpoint
from ledger.settle_window import mark_closed, settle_ready
from ledger.tree import Frontier, consistency_proof, leaf_hash, subtree_of
from protocol.envelope import seal
from tests.ledger.world import (
    MARKET,
    NOW_S,
    ORIGIN,
    OTHER,
    PROVIDER,
    SETTLE_BY_S,
    accept,
    id_of,
    lease_of,
    leased_hold,
    receipt_of,
    receipt_record,
    scratch,
)

FIRST = lease_of("first", "hold")
SECOND = lease_of("second", "hold", provider=OTHER)
OPEN = lease_of("open", "unsettled")


def honest_log():
    """Two hops settled, one lease still open; gives leaves, checkpoint and settled holds."""
    with scratch() as session:
        leased_hold(session, "hold", [FIRST, SECOND])
        leased_hold(session, "unsettled", [OPEN])
        accept(session, receipt_of(FIRST, 1, 10))
        accept(session, receipt_of(FIRST, 2, 20, final=True))
        accept(session, receipt_of(SECOND, 1, 21, provider=OTHER, final=True), provider=OTHER)
        older = publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
        accept(session, receipt_of(OPEN, 1, 5))
        mark_closed(session, id_of("hold"))
        settled = settle_ready(session, now_s=NOW_S, limit=10)
        published = publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
        log = Log(session)
        proof = log.consistency_proof(older.size, published.size)
        return log.page(0, 100), published, settled, older, proof


LEAVES, PUBLISHED, SETTLED, OLDER, PROOF = honest_log()
SETTLEMENT = len(LEAVES) - 1


def note_of(leaves) -> str:
    """A checkpoint the marketplace signed over exactly these entries, lies and all."""
    frontier = Frontier()
    for payload in leaves:
        frontier.append(leaf_hash(payload))
    return sign_checkpoint(Checkpoint(ORIGIN, frontier.size, frontier.root), MARKET)


def audit_of(leaves, totals=None):
    return audit(leaves, note_of(leaves), MARKET.peer_id, totals)


def receipt_leaf(lease, sequence, tokens, *, market=MARKET, **changes):
    provider = OTHER if lease.provider == OTHER.peer_id else PROVIDER
    encoded = receipt_of(lease, sequence, tokens, provider=provider, **changes)
    return encode_leaf(ReceiptLeaf(seal(lease, market).encode(), encoded))


def settlement_leaf(*lanes, hold="hold", fee_basis_points=500, **changes):
    """The settlement that (lease, tokens) pairs call for."""
    earned_by = tuple(
        LaneCredit(lease.lease_id, lease.provider, receipt_record(lease, 1, tokens).amount_nanos)
        for lease, tokens in lanes
    )
    earned = sum(credit.nanos for credit in earned_by)
    charged = earned * (10_000 + fee_basis_points) // 10_000
    leaf = SettlementLeaf(id_of(hold), charged, charged - earned, fee_basis_points, earned_by)
    return encode_leaf(dataclasses.replace(leaf, **changes))


class TestHonest:
    def test_everything_adds_up(self):
        report = audit(LEAVES, PUBLISHED.note, MARKET.peer_id, PUBLISHED.totals, origin=ORIGIN)
        (settled,) = SETTLED
        assert (report.ok, report.problems) == (True, ())
        assert (report.leaves, report.receipts, report.settlements) == (5, 4, 1)
        assert (report.size, report.root) == (PUBLISHED.size, PUBLISHED.root)
        assert (report.charged_nanos, report.fee_nanos) == (
            settled.charged_nanos,
            settled.fee_nanos,
        )
        assert report.credited == {credit.provider: credit.nanos for credit in settled.credits}
        assert report.credited_nanos + report.fee_nanos == report.charged_nanos

    def test_an_empty_log(self):
        assert audit_of([], {"charged_nanos": 0, "credited_nanos": 0, "fee_nanos": 0}).ok

    def test_later_leaves_are_not_read(self):
        report = audit(LEAVES, OLDER.note, MARKET.peer_id)
        assert (report.ok, report.leaves) == (True, OLDER.size)

    def test_leaves_may_come_from_a_generator(self):
        assert audit(iter(LEAVES), PUBLISHED.note, MARKET.peer_id).ok

    def test_the_log_continues_an_older_checkpoint(self):
        assert audit(LEAVES, PUBLISHED.note, MARKET.peer_id, older_note=OLDER.note).ok
        old, new = verify_consistency(OLDER.note, PUBLISHED.note, PROOF, MARKET.peer_id)
        assert (old.size, new.size) == (OLDER.size, PUBLISHED.size)

    def test_steps_begin_anew_with_every_epoch(self):
        leaves = [
            receipt_leaf(FIRST, 1, 10),
            receipt_leaf(FIRST, 2, 12, epoch=1, steps=2),
            receipt_leaf(FIRST, 3, 14, epoch=4, steps=1, final=True),
            settlement_leaf((FIRST, 14)),
        ]
        assert audit_of(leaves).ok


class TestFlippedByte:
    @given(index=st.integers(0, len(LEAVES) - 1), data=st.data())
    @settings(deadline=None, max_examples=150)
    def test_is_caught_by_the_checkpoint_and_named_by_its_entry(self, index, data):
        position = data.draw(st.integers(0, len(LEAVES[index]) - 1))
        changed = bytearray(LEAVES[index])
        changed[position] ^= data.draw(st.integers(1, 255))
        leaves = [*LEAVES[:index], bytes(changed), *LEAVES[index + 1 :]]
        under_the_honest_note = audit(leaves, PUBLISHED.note, MARKET.peer_id, PUBLISHED.totals)
        assert "log: the root of the entries is not the one that was signed" in (
            under_the_honest_note.problems
        )
        # even if the marketplace had signed the changed log, the entry itself gives it away
        report = audit_of(leaves, PUBLISHED.totals)
        assert not report.ok
        assert any(problem.startswith(f"entry {index}:") for problem in report.problems)

    def test_every_byte_of_a_settlement(self):
        payload = LEAVES[SETTLEMENT]
        for position in range(len(payload)):
            changed = payload[:position] + bytes([payload[position] ^ 1]) + payload[position + 1 :]
            report = audit_of([*LEAVES[:SETTLEMENT], changed])
            assert f"entry {SETTLEMENT}:" in "".join(report.problems), position


class TestLies:
    def named(self, leaves, *, entry, why):
        report = audit_of(leaves)
        assert not report.ok
        assert report.problems[0].startswith(f"entry {entry}:")
        assert why in report.problems[0]

    def test_a_lease_the_marketplace_did_not_sign(self):
        self.named([receipt_leaf(FIRST, 1, 10, market=OTHER)], entry=0, why="may say it")

    def test_a_receipt_of_another_payer(self):
        self.named([receipt_leaf(FIRST, 1, 10, payer=OTHER)], entry=0, why="may say it")

    def test_an_amount_that_is_not_the_works(self):
        self.named([receipt_leaf(FIRST, 1, 10, amount_nanos=9)], entry=0, why="worth")

    def test_a_receipt_logged_twice(self):
        leaf = receipt_leaf(FIRST, 1, 10)
        self.named([leaf, leaf], entry=1, why="receipt 1")

    def test_a_receipt_that_says_less(self):
        leaves = [receipt_leaf(FIRST, 1, 10), receipt_leaf(FIRST, 2, 9)]
        self.named(leaves, entry=1, why="says less")

    def test_a_receipt_of_an_epoch_that_is_past(self):
        leaves = [receipt_leaf(FIRST, 1, 10, epoch=1, steps=2), receipt_leaf(FIRST, 2, 12)]
        self.named(leaves, entry=1, why="says less")

    def test_a_receipt_after_its_settlement(self):
        leaves = [
            receipt_leaf(FIRST, 1, 10),
            settlement_leaf((FIRST, 10)),
            receipt_leaf(FIRST, 2, 11),
        ]
        self.named(leaves, entry=2, why="after its settlement")

    def test_a_receipt_of_another_lease_after_the_holds_settlement(self):
        leaves = [
            receipt_leaf(FIRST, 1, 10),
            settlement_leaf((FIRST, 10)),
            receipt_leaf(SECOND, 1, 10),
        ]
        self.named(leaves, entry=2, why="after its settlement")

    def test_two_leases_under_one_id(self):
        other = dataclasses.replace(FIRST, tokens_max=FIRST.tokens_max + 1)
        leaves = [receipt_leaf(FIRST, 1, 10), receipt_leaf(other, 2, 10)]
        self.named(leaves, entry=1, why="two different leases")

    def test_a_hold_settled_twice(self):
        settlement = settlement_leaf((FIRST, 10))
        leaves = [receipt_leaf(FIRST, 1, 10), settlement, settlement]
        self.named(leaves, entry=2, why="settled twice")

    def test_a_settlement_without_receipts(self):
        self.named([settlement_leaf((FIRST, 10))], entry=0, why="not name exactly")

    def test_a_settlement_that_forgets_a_provider(self):
        leaves = [
            receipt_leaf(FIRST, 1, 10),
            receipt_leaf(SECOND, 1, 10),
            settlement_leaf((FIRST, 10)),
        ]
        self.named(leaves, entry=2, why="not name exactly")

    def test_a_settlement_of_an_older_receipt(self):
        leaves = [
            receipt_leaf(FIRST, 1, 10),
            receipt_leaf(FIRST, 2, 20),
            settlement_leaf((FIRST, 10)),
        ]
        self.named(leaves, entry=2, why="was credited")

    def test_a_settlement_to_somebody_else(self):
        credit = LaneCredit(
            FIRST.lease_id, OTHER.peer_id, receipt_record(FIRST, 1, 10).amount_nanos
        )
        leaves = [receipt_leaf(FIRST, 1, 10), settlement_leaf((FIRST, 10), credits=(credit,))]
        self.named(leaves, entry=1, why="not that provider's")

    @pytest.mark.parametrize("changes", [{"fee_nanos": 4}, {"charged_nanos": 10**6}])
    def test_another_fee_or_charge(self, changes):
        leaves = [receipt_leaf(FIRST, 1, 10), settlement_leaf((FIRST, 10), **changes)]
        self.named(leaves, entry=1, why="was charged")

    def test_another_fee_rate(self):
        leaves = [
            receipt_leaf(FIRST, 1, 10),
            settlement_leaf((FIRST, 10), fee_basis_points=600),
        ]
        self.named(leaves, entry=1, why="another fee")

    @pytest.mark.parametrize("name", ["charged_nanos", "credited_nanos", "fee_nanos"])
    def test_a_book_that_says_otherwise(self, name):
        totals = {**PUBLISHED.totals, name: PUBLISHED.totals[name] + 1}
        report = audit(LEAVES, PUBLISHED.note, MARKET.peer_id, totals)
        assert report.problems == (
            f"book: {name} is {totals[name]}, the log comes to {totals[name] - 1}",
        )

    def test_missing_leaves(self):
        report = audit(LEAVES[:-1], PUBLISHED.note, MARKET.peer_id)
        assert "4 entries were given, 5 are signed" in report.problems[-1]

    def test_a_note_of_somebody_else(self):
        report = audit(LEAVES, PUBLISHED.note, OTHER.peer_id)
        assert (report.ok, report.leaves) == (False, 0)
        assert not audit(LEAVES, PUBLISHED.note, MARKET.peer_id, origin="piecework/x").ok

    def test_a_log_that_left_its_older_checkpoint(self):
        forked = [receipt_leaf(FIRST, 1, 11), *LEAVES[1:]]
        report = audit(forked, note_of(forked), MARKET.peer_id, older_note=OLDER.note)
        assert any("not those signed before" in problem for problem in report.problems)
        shrunk = audit(LEAVES, OLDER.note, MARKET.peer_id, older_note=PUBLISHED.note)
        assert any("before, now" in problem for problem in shrunk.problems)

    def test_problems_are_bounded(self):
        leaves = [f"rubbish {number}".encode() for number in range(PROBLEMS_MAX * 2)]
        assert len(audit_of(leaves).problems) == PROBLEMS_MAX


class TestVerifyConsistency:
    def test_two_signed_notes_that_contradict_are_a_fork(self):
        forked = [receipt_leaf(FIRST, 1, 11), *LEAVES[1:]]
        subtree = subtree_of([leaf_hash(payload) for payload in forked])
        proof = consistency_proof(OLDER.size, len(forked), subtree)
        with pytest.raises(ForkDetected):
            verify_consistency(OLDER.note, note_of(forked), proof, MARKET.peer_id)

    def test_notes_of_different_logs(self):
        other = sign_checkpoint(Checkpoint("piecework/x", 5, PUBLISHED.root), MARKET)
        with pytest.raises(ForkDetected, match="different logs"):
            verify_consistency(PUBLISHED.note, other, [], MARKET.peer_id)

    def test_an_unsigned_note(self):
        with pytest.raises(AuditFailed):
            verify_consistency(OLDER.note, PUBLISHED.note[:-9], PROOF, MARKET.peer_id)


def test_auditing_needs_no_database():
    pure = ["accounts", "audit", "checkpoint", "errors", "lane", "leaf", "settlement", "tree"]
    program = "import sys, ledger\n" + "".join(f"import ledger.{name}\n" for name in pure)
    program += "assert not {'sqlalchemy', 'sqlmodel', 'pydantic'} & set(sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=60)


def test_receipts_taken_until_the_end_are_settled_late():
    with scratch() as session:
        leased_hold(session, "hold", [FIRST])
        accept(session, receipt_of(FIRST, 1, 10), now_s=SETTLE_BY_S)
        settle_ready(session, now_s=SETTLE_BY_S + 1, limit=1)
        published = publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
        leaves = Log(session).page(0, 10)
    assert audit(leaves, published.note, MARKET.peer_id, published.totals).ok
