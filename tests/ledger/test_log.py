"""The log in the database: the same tree as in memory, and checkpoints that cannot contradict."""

import pytest
from sqlalchemy import text

from ledger.audit import verify_consistency as verify_notes
from ledger.checkpoint import open_checkpoint
from ledger.errors import AuditFailed, ForkDetected
from ledger.leaf import ReceiptLeaf, encode_leaf
from ledger.log import LEAVES_PER_PAGE_MAX, Log, publish_checkpoint
from ledger.tree import (
    EMPTY_ROOT,
    leaf_hash,
    subtree_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from tests.ledger.world import MARKET, NOW_S, ORIGIN, without_triggers
from tests.postgres import both_engines

pytestmark = both_engines

SIZES = (1, 2, 255, 256, 257, 511, 512, 513, 1000)


def entries(start, end):
    return [ReceiptLeaf(f"lease {index}".encode(), b"receipt") for index in range(start, end)]


def publish(session, now_s=NOW_S):
    return publish_checkpoint(session, MARKET, ORIGIN, now_s)


@pytest.fixture
def log(session):
    return Log(session)


class TestAppend:
    def test_indexes_follow_one_another(self, log):
        assert log.append(entries(0, 3)) == range(3)
        assert log.append([]) == range(0)
        assert log.append(entries(3, 4)) == range(3, 4)
        assert log.size == 4

    def test_root_at_every_size_is_the_trees(self, log):
        log.append(entries(0, 300))
        log.append(entries(300, 1000))
        subtree = subtree_of([leaf_hash(encode_leaf(leaf)) for leaf in entries(0, 1000)])
        assert log.root(0) == EMPTY_ROOT
        for size in SIZES:
            assert log.root(size) == tree_root(size, subtree)
        with pytest.raises(AuditFailed):
            log.root(1001)

    def test_pages(self, log):
        log.append(entries(0, 1200))
        assert log.page(5, 2) == [encode_leaf(leaf) for leaf in entries(5, 7)]
        assert len(log.page(0, 5000)) == LEAVES_PER_PAGE_MAX
        assert log.page(1200, 10) == log.page(0, 0) == []


class TestProofs:
    def test_inclusion_and_consistency_across_tiles(self, log):
        log.append(entries(0, 1000))
        root = log.root(1000)
        for index in (0, 1, 254, 255, 256, 511, 512, 998, 999):
            leaf = leaf_hash(encode_leaf(entries(index, index + 1)[0]))
            verify_inclusion(leaf, index, 1000, log.inclusion_proof(index, 1000), root)
        for old in SIZES:
            proof = log.consistency_proof(old, 1000)
            verify_consistency(old, log.root(old), 1000, root, proof)

    def test_proofs_of_an_older_size(self, log):
        log.append(entries(0, 600))
        root = log.root(300)
        leaf = leaf_hash(encode_leaf(entries(299, 300)[0]))
        verify_inclusion(leaf, 299, 300, log.inclusion_proof(299, 300), root)

    def test_nothing_is_proved_beyond_the_end(self, log):
        log.append(entries(0, 5))
        for call in (lambda: log.inclusion_proof(1, 6), lambda: log.consistency_proof(1, 6)):
            with pytest.raises(AuditFailed):
                call()


class TestPublish:
    def test_an_empty_log_can_be_signed(self, session, log):
        published = publish(session)
        assert (published.size, published.root) == (0, EMPTY_ROOT)

    def test_the_note_says_size_and_root(self, session, log):
        log.append(entries(0, 3))
        published = publish(session)
        opened = open_checkpoint(published.note, MARKET.peer_id, origin=ORIGIN)
        assert (opened.size, opened.root) == (3, log.root(3))
        assert log.latest() == published

    def test_an_unchanged_log_keeps_its_checkpoint(self, session, log):
        log.append(entries(0, 3))
        assert publish(session) == publish(session, NOW_S + 60)

    def test_two_checkpoints_are_consistent(self, session, log):
        log.append(entries(0, 3))
        old = publish(session)
        log.append(entries(3, 700))
        new = publish(session)
        verify_notes(old.note, new.note, log.consistency_proof(3, 700), MARKET.peer_id)

    def test_a_rewritten_leaf_is_a_fork(self, session, log):
        log.append(entries(0, 5))
        publish(session)
        without_triggers(session, "ledger_leaf")
        change = text("UPDATE ledger_leaf SET hash = :hash WHERE leaf_index = 2")
        session.execute(change, {"hash": bytes(32)})
        log.append(entries(5, 6))
        with pytest.raises(ForkDetected):
            publish(session)

    def test_a_lost_leaf_is_a_fork(self, session, log):
        log.append(entries(0, 5))
        publish(session)
        without_triggers(session, "ledger_leaf")
        session.execute(text("DELETE FROM ledger_leaf WHERE leaf_index = 2"))
        log.append(entries(5, 6))
        with pytest.raises(ForkDetected):
            publish(session)

    def test_a_rolled_back_head_is_a_fork(self, session, log):
        log.append(entries(0, 5))
        publish(session)
        change = text("UPDATE ledger_log_head SET size = 0, checkpoint_size = 0, frontier = :none")
        session.execute(change, {"none": b""})
        with pytest.raises(ForkDetected):
            publish(session)

    def test_a_changed_note_is_a_fork(self, session, log):
        log.append(entries(0, 5))
        publish(session)
        without_triggers(session, "ledger_checkpoint")
        session.execute(text("UPDATE ledger_checkpoint SET note = replace(note, '5', '6')"))
        with pytest.raises(ForkDetected):
            publish(session)
