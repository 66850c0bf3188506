"""A tree over everything that is owed, which proves to each owner that it was counted. Pure.

    leaf = SHA-256(0x02 ‖ blinded ‖ sum)                 blinded = SHA-256(salt ‖ account's name)
    node = SHA-256(0x03 ‖ left ‖ right ‖ left sum ‖ right sum)         sums in eight bytes, unsigned

The root's sum is what is owed in all; as every sum in between is hashed and none is negative, an
owner whose leaf comes to the root was counted in full. Each leaf has a salt of its own, made from
the snapshot's secret, so a proof shows its reader no other owner: it does show sums of branches
beside the way, in an order that is drawn anew for every snapshot. An odd last node goes up as it is
(the shape of RFC 6962).
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger.errors import AuditFailed
from protocol.money import Nanos

__all__ = [
    "EMPTY",
    "BalanceNode",
    "BalanceProof",
    "OwnedLeaf",
    "build_levels",
    "leaf_of",
    "make_leaves",
    "node_of",
    "salt_of",
    "siblings_of",
    "verify_balance",
]

SALT_BYTES = 32
SUM_MAX = 2**63 - 1
PROOF_NODES_MAX = 64
"""Counts fit 63 bits."""


@dataclass(frozen=True, slots=True)
class BalanceNode:
    """A hash, and what its accounts are owed together."""

    hash: bytes
    sum_nanos: Nanos


@dataclass(frozen=True, slots=True)
class OwnedLeaf:
    """One account's leaf, with what only its owner may know."""

    account: str
    sum_nanos: Nanos
    salt: bytes
    blinded: bytes

    @property
    def node(self) -> BalanceNode:
        return leaf_of(self.salt, self.account, self.sum_nanos)


@dataclass(frozen=True, slots=True)
class BalanceProof:
    """What an owner needs to find its balance under a root."""

    account: str
    sum_nanos: Nanos
    salt: bytes
    index: int
    count: int
    """Leaves of the tree."""
    siblings: tuple[BalanceNode, ...]
    """From the leaf up."""


EMPTY = BalanceNode(hashlib.sha256(b"\3").digest(), 0)
"""Nobody is owed anything, for there is no account."""


def salt_of(secret: bytes, account: str) -> bytes:
    """What blinds one account in one snapshot."""
    return hmac.new(secret, account.encode(), hashlib.sha256).digest()


def leaf_of(salt: bytes, account: str, sum_nanos: Nanos) -> BalanceNode:
    """An account's leaf; raises AuditFailed for a balance below zero."""
    blinded = hashlib.sha256(salt + account.encode()).digest()
    return BalanceNode(hashlib.sha256(b"\2" + blinded + _sum_bytes(sum_nanos)).digest(), sum_nanos)


def node_of(left: BalanceNode, right: BalanceNode) -> BalanceNode:
    """Two branches side by side; raises AuditFailed where their sum is out of range."""
    total = left.sum_nanos + right.sum_nanos
    sums = _sum_bytes(left.sum_nanos) + _sum_bytes(right.sum_nanos)
    _sum_bytes(total)
    return BalanceNode(hashlib.sha256(b"\3" + left.hash + right.hash + sums).digest(), total)


def make_leaves(secret: bytes, balances: Iterable[tuple[str, Nanos]]) -> list[OwnedLeaf]:
    """A leaf for each (account, nanos), in the tree's order: that of the blinded names."""
    leaves = []
    for account, sum_nanos in balances:
        salt = salt_of(secret, account)
        blinded = hashlib.sha256(salt + account.encode()).digest()
        leaves.append(OwnedLeaf(account, sum_nanos, salt, blinded))
    return sorted(leaves, key=lambda leaf: leaf.blinded)


def build_levels(leaves: Sequence[BalanceNode]) -> list[list[BalanceNode]]:
    """Every level from the leaves to the root alone; empty for no leaves."""
    levels = [list(leaves)] if leaves else []
    while levels and len(levels[-1]) > 1:
        below = levels[-1]
        level = [node_of(*below[pair : pair + 2]) for pair in range(0, len(below) - 1, 2)]
        levels.append(level + below[len(below) & ~1 :])
    return levels


def siblings_of(index: int, count: int) -> list[tuple[int, int]]:
    """(level, index) of the branches beside the way from a leaf to the root."""
    found, level = [], 0
    while count > 1:
        if (index ^ 1) < count:
            found.append((level, index ^ 1))
        index, count, level = index >> 1, (count + 1) >> 1, level + 1
    return found


def verify_balance(proof: BalanceProof, root: BalanceNode) -> None:
    """Raise AuditFailed unless that account's balance is counted under `root`."""
    if not 0 <= proof.index < proof.count or len(proof.siblings) > PROOF_NODES_MAX:
        raise AuditFailed("The balance proof is of no leaf of the tree.")
    if len(proof.salt) != SALT_BYTES:
        raise AuditFailed(f"A salt has {SALT_BYTES} bytes.")
    places = siblings_of(proof.index, proof.count)
    if len(places) != len(proof.siblings):
        raise AuditFailed("The balance proof is too long or too short.")
    node = leaf_of(proof.salt, proof.account, proof.sum_nanos)
    for (_, place), sibling in zip(places, proof.siblings, strict=True):
        node = node_of(node, sibling) if place & 1 else node_of(sibling, node)
    if node != root:
        raise AuditFailed(f"The balance of {proof.account} is not counted in what is signed.")


def _sum_bytes(sum_nanos: Nanos) -> bytes:
    if not 0 <= sum_nanos <= SUM_MAX:
        raise AuditFailed(f"A balance tree cannot hold {sum_nanos} nanos.")
    return sum_nanos.to_bytes(8, "big")
