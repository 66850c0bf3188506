"""Replays that begin in the midst, leases that were issued again, several processes, and ids."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from ledger.audit import Beginning, audit
from ledger.checkpoint import Checkpoint, sign_checkpoint
from ledger.examine import Examiner
from ledger.id_set import IdSet
from ledger.leaf import BalancesLeaf, encode_leaf
from ledger.replay import Replay
from ledger.tree import Frontier, consistency_proof, leaf_hash, subtree_of
from protocol.money import Work
from tests.ledger.test_audit import (
    FIRST,
    LEAVES,
    PUBLISHED,
    SECOND,
    audit_of,
    note_of,
    receipt_leaf,
    settlement_leaf,
)
from tests.ledger.world import MARKET, ORIGIN, id_of, lease_of


def beginning_at(leaves, size):
    frontier = Frontier()
    for leaf in leaves[:size]:
        frontier.append(leaf_hash(leaf))
    note = sign_checkpoint(Checkpoint(ORIGIN, size, frontier.root), MARKET)
    proof = consistency_proof(size, len(leaves), subtree_of([leaf_hash(leaf) for leaf in leaves]))
    return Beginning(note, frontier.encode(), tuple(proof))


def since(leaves, size, given_leaves=None):
    kept = leaves[size:] if given_leaves is None else given_leaves
    return audit(kept, note_of(leaves), MARKET.peer_id, beginning=beginning_at(leaves, size))


class TestSince:
    def test_only_newer_entries_are_judged_and_the_rest_is_said(self):
        report = since(LEAVES, 4)
        assert report.ok, report.problems
        assert (report.since, report.leaves, report.settlements) == (4, 1, 1)
        assert (report.unjudged.settlements, report.unjudged.receipts) == (1, 0)
        report = since(LEAVES, 1)
        assert report.ok
        assert (report.unjudged.settlements, report.unjudged.receipts) == (0, 1)

    def test_from_every_size(self):
        for size in range(1, len(LEAVES) + 1):
            assert since(LEAVES, size).ok, size

    def test_a_log_that_does_not_continue_is_named(self):
        forked = [receipt_leaf(FIRST, 1, 11), *LEAVES[1:]]
        report = audit(
            LEAVES[3:], note_of(LEAVES), MARKET.peer_id, beginning=beginning_at(forked, 3)
        )
        assert not report.ok
        assert report.leaves == 0

    def test_newer_lies_are_named_with_their_place_in_the_whole_log(self):
        leaves = [*LEAVES[:4], settlement_leaf((FIRST, 20), (SECOND, 20))]
        report = since(leaves, 2)
        assert report.problems
        assert report.problems[0].startswith("entry 4:")

    def test_a_settlement_must_still_add_up(self):
        leaves = [
            receipt_leaf(FIRST, 1, 10),
            settlement_leaf((FIRST, 10), fee_nanos=1),
        ]
        assert since(leaves, 1).problems[0].startswith("entry 1:")

    def test_entries_left_out_are_named(self):
        assert not since(LEAVES, 2, LEAVES[3:]).ok


class TestIssuedAgain:
    def grown(self, **changes):
        work = dataclasses.replace(
            FIRST.work_max, decode_token_layers=2 * FIRST.work_max.decode_token_layers
        )
        higher = {
            "work_max": work,
            "amount_nanos_max": 2 * FIRST.amount_nanos_max,
            "settle_by_s": FIRST.settle_by_s + 60,
        }
        return dataclasses.replace(FIRST, **{**higher, **changes})

    def test_higher_limits_are_the_same_lease(self):
        leaves = [
            receipt_leaf(FIRST, 1, 10),
            receipt_leaf(self.grown(), 2, 20, final=True),
            settlement_leaf((FIRST, 20)),
        ]
        report = audit_of(leaves)
        assert report.ok, report.problems

    def test_lower_limits_or_another_word_are_not(self):
        others = [
            dataclasses.replace(FIRST, amount_nanos_max=FIRST.amount_nanos_max - 1),
            dataclasses.replace(FIRST, work_max=Work(0, 10**6, 10**9, 10**9)),
            self.grown(window_tokens=FIRST.window_tokens + 1),
            self.grown(payer_key=bytes(32)),
        ]
        for other in others:
            leaves = [receipt_leaf(FIRST, 1, 10), receipt_leaf(other, 2, 11)]
            assert not audit_of(leaves).ok

    def test_a_lease_that_is_settled_does_not_come_back(self):
        again = dataclasses.replace(FIRST, hold_id=id_of("another hold"))
        leaves = [
            receipt_leaf(FIRST, 1, 10),
            settlement_leaf((FIRST, 10)),
            receipt_leaf(again, 1, 10),
        ]
        assert "two different leases" in audit_of(leaves).problems[0]


class TestMemory:
    def test_lanes_are_dropped_once_their_hold_is_settled(self):
        replay, examiner = Replay(), Examiner(MARKET.peer_id)
        for number in range(20):
            lease = lease_of(f"lease {number}", f"hold {number}")
            hold = f"hold {number}"
            for leaf in (
                receipt_leaf(lease, 1, 10),
                settlement_leaf((lease, 10), hold=hold),
            ):
                replay.take(replay.leaves, examiner.examine(leaf)[1])
                assert replay.open_lanes <= 1
        assert replay.problems == []
        assert replay.open_lanes == 0


class TestProcesses:
    def test_two_say_what_one_says(self):
        one = audit(LEAVES, PUBLISHED.note, MARKET.peer_id, PUBLISHED.totals)
        two = audit(LEAVES, PUBLISHED.note, MARKET.peer_id, PUBLISHED.totals, processes=2)
        assert one.ok
        assert one == two


class TestBalanceEntries:
    def test_are_counted_and_must_come_in_order(self):
        trees = [encode_leaf(BalancesLeaf(bytes(32), 5, 1, at_s)) for at_s in (10, 20)]
        assert audit_of(trees).balances == 2
        assert not audit_of(trees[::-1]).ok
        assert not audit_of([encode_leaf(BalancesLeaf(bytes(32), -5, 1, 10))]).ok
        assert not audit_of([encode_leaf(BalancesLeaf(bytes(3), 5, 1, 10))]).ok


class TestIdSet:
    @given(st.sets(st.binary(min_size=16, max_size=16), max_size=200))
    def test_is_a_set(self, ids):
        found = IdSet()
        for item in (*ids, *ids):
            found.add(item)
        assert len(found) == len(ids)
        assert all(item in found for item in ids)
        assert bytes(17) not in found

    def test_grows(self):
        found = IdSet()
        for number in range(5000):
            found.add(number.to_bytes(16, "big"))
        assert len(found) == 5000
        assert all(number.to_bytes(16, "big") in found for number in range(5000))
        assert (5000).to_bytes(16, "big") not in found
