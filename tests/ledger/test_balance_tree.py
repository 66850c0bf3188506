"""The balance tree: every owner is counted, nobody can be left out or counted for less."""

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.balance_tree import (
    EMPTY,
    BalanceNode,
    BalanceProof,
    build_levels,
    leaf_of,
    make_leaves,
    node_of,
    siblings_of,
    verify_balance,
)
from ledger.errors import AuditFailed

SECRET = bytes(range(32))
BALANCES = st.lists(st.integers(0, 10**12), min_size=1, max_size=40)


def tree_of(balances):
    leaves = make_leaves(SECRET, [(f"buyer_cash:{i}", nanos) for i, nanos in enumerate(balances)])
    levels = build_levels([leaf.node for leaf in leaves])
    proofs = [
        BalanceProof(
            leaf.account, leaf.sum_nanos, leaf.salt, index, len(leaves),
            tuple(levels[level][place] for level, place in siblings_of(index, len(leaves))),
        )
        for index, leaf in enumerate(leaves)
    ]  # fmt: skip
    return levels[-1][0], proofs


def test_bytes_are_those_of_the_page():
    salt = bytes(32)
    blinded = hashlib.sha256(salt + b"buyer_cash:a").digest()
    leaf = leaf_of(salt, "buyer_cash:a", 5)
    assert leaf.hash == hashlib.sha256(b"\2" + blinded + (5).to_bytes(8, "big")).digest()
    node = node_of(leaf, BalanceNode(bytes(32), 7))
    sums = (5).to_bytes(8, "big") + (7).to_bytes(8, "big")
    assert node.hash == hashlib.sha256(b"\3" + leaf.hash + bytes(32) + sums).digest()
    assert node.sum_nanos == 12


def test_no_account_at_all():
    assert build_levels([]) == []
    assert EMPTY.sum_nanos == 0


@given(BALANCES)
def test_every_owner_is_counted(balances):
    root, proofs = tree_of(balances)
    assert root.sum_nanos == sum(balances)
    for proof in proofs:
        verify_balance(proof, root)


@given(BALANCES, st.data())
def test_a_proof_that_says_other_is_refused(balances, data):
    root, proofs = tree_of(balances)
    proof = data.draw(st.sampled_from(proofs))
    wrong = [
        dataclasses.replace(proof, sum_nanos=proof.sum_nanos + 1),
        dataclasses.replace(proof, account="buyer_cash:x"),
        dataclasses.replace(proof, salt=bytes(32)),
        dataclasses.replace(proof, index=proof.index + proof.count),
        dataclasses.replace(proof, siblings=(*proof.siblings, EMPTY)),
    ]
    if proof.siblings:
        first = proof.siblings[0]
        less = dataclasses.replace(first, sum_nanos=first.sum_nanos - 1)
        wrong += [
            dataclasses.replace(proof, siblings=proof.siblings[1:]),
            dataclasses.replace(proof, siblings=(less, *proof.siblings[1:])),
        ]
    for item in wrong:
        with pytest.raises(AuditFailed):
            verify_balance(item, root)
    with pytest.raises(AuditFailed):
        verify_balance(proof, dataclasses.replace(root, sum_nanos=root.sum_nanos + 1))


def test_nothing_negative_can_hide_a_debt():
    with pytest.raises(AuditFailed):
        leaf_of(bytes(32), "buyer_cash:a", -1)
    with pytest.raises(AuditFailed):
        node_of(BalanceNode(bytes(32), 5), BalanceNode(bytes(32), -1))
    with pytest.raises(AuditFailed):
        node_of(BalanceNode(bytes(32), 2**63 - 1), BalanceNode(bytes(32), 1))


def test_another_snapshot_blinds_anew():
    one, two = (make_leaves(secret, [("buyer_cash:a", 5)])[0] for secret in (SECRET, bytes(32)))
    assert one.blinded != two.blinded
