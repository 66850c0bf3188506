"""The log's hash tree (RFC 6962 section 2.1): roots, inclusion and consistency proofs. Pure.

    leaf = SHA-256(0x00 ‖ entry)      node = SHA-256(0x01 ‖ left ‖ right)      empty = SHA-256("")

The prefixes keep an entry from being taken for a node. Proofs are made from `SubtreeRoot`, a
function that gives the root of any full subtree, so that a database need not load every leaf;
they are verified by the iterative algorithms of RFC 9162 sections 2.1.3.2 and 2.1.4.2.
"""

import hashlib
from collections.abc import Callable, Sequence

from ledger.errors import AuditFailed

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "PROOF_HASHES_MAX",
    "Frontier",
    "SubtreeRoot",
    "consistency_hashes",
    "consistency_proof",
    "consistency_roots",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "right_edge",
    "subtree_of",
    "tree_root",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

PROOF_HASHES_MAX = 64
"""Sizes fit 63 bits, so no honest proof is longer."""

SubtreeRoot = Callable[[int, int], bytes]
"""(level, index) -> root of the full subtree over leaves [index << level, (index + 1) << level)."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one entry of the log."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two subtrees side by side."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: enough to append and to know the root, in log n hashes."""

    def __init__(self, size: int = 0, encoded: bytes = b"") -> None:
        if len(encoded) != HASH_BYTES * size.bit_count():
            raise AuditFailed(f"A frontier of {size} leaves has {size.bit_count()} hashes.")
        self.size = size
        self._hashes = [
            encoded[start : start + HASH_BYTES] for start in range(0, len(encoded), HASH_BYTES)
        ]

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add one leaf hash; gives (level, index, root) of every subtree it completes above it."""
        completed: list[tuple[int, int, bytes]] = []
        root, position, level = leaf, self.size, 0
        while position & 1:
            root, position, level = node_hash(self._hashes.pop(), root), position >> 1, level + 1
            completed.append((level, position, root))
        self._hashes.append(root)
        self.size += 1
        return completed

    @property
    def root(self) -> bytes:
        if not self._hashes:
            return EMPTY_ROOT
        root = self._hashes[-1]
        for left in reversed(self._hashes[:-1]):
            root = node_hash(left, root)
        return root

    def encode(self) -> bytes:
        """Subtree roots, largest first; their sizes follow from the bits of `size`."""
        return b"".join(self._hashes)


def subtree_of(leaves: Sequence[bytes]) -> SubtreeRoot:
    """Full subtrees over leaf hashes in memory."""

    def subtree(level: int, index: int) -> bytes:
        if level == 0:
            return leaves[index]
        return node_hash(subtree(level - 1, 2 * index), subtree(level - 1, 2 * index + 1))

    return subtree


def tree_root(size: int, subtree: SubtreeRoot) -> bytes:
    """Root over the first `size` leaves."""
    return _range_root(0, size, subtree) if size else EMPTY_ROOT


def right_edge(size: int, subtree: SubtreeRoot) -> bytes:
    """The encoded `Frontier` of the first `size` leaves."""
    edge, start = b"", 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            edge += subtree(level, start >> level)
            start += 1 << level
    return edge


def inclusion_proof(index: int, size: int, subtree: SubtreeRoot) -> list[bytes]:
    """Siblings on the way from leaf `index` up to the root of the first `size` leaves."""
    if not 0 <= index < size:
        raise AuditFailed(f"There is no leaf {index} in a log of {size}.")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range_root(middle, end, subtree))
            end = middle
        else:
            proof.append(_range_root(start, middle, subtree))
            start = middle
    return proof[::-1]


def consistency_proof(old_size: int, size: int, subtree: SubtreeRoot) -> list[bytes]:
    """What shows that the tree of `size` leaves begins with the tree of `old_size` leaves."""
    if not 0 <= old_size <= size:
        raise AuditFailed(f"A log of {size} entries has no earlier size {old_size}.")
    if old_size in (0, size):
        return []
    proof: list[bytes] = []
    start, end, is_old_root = 0, size, True
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(_range_root(middle, end, subtree))
            end = middle
        else:
            proof.append(_range_root(start, middle, subtree))
            start, is_old_root = middle, False
    if not is_old_root:
        proof.append(_range_root(start, end, subtree))
    return proof[::-1]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Raise AuditFailed unless `leaf` (a leaf hash) is entry `index` of the tree with `root`."""
    _check_proof(proof)
    if not 0 <= index < size:
        raise AuditFailed(f"There is no leaf {index} in a log of {size}.")
    position, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise AuditFailed("The inclusion proof is too long.")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    if last or computed != root:
        raise AuditFailed(f"The proof does not show leaf {index} in a log of {size}.")


def verify_consistency(
    old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Raise AuditFailed unless the proof shows that the log only grew between the two roots."""
    _check_proof(proof)
    if not 0 <= old_size <= size:
        raise AuditFailed(f"A log of {size} entries has no earlier size {old_size}.")
    if old_size in (0, size):
        expected = EMPTY_ROOT if old_size == 0 else root
        if proof or old_root != expected:
            raise AuditFailed(f"The roots at {old_size} and {size} do not agree.")
        return
    # a power of two is a full subtree: its root is where the walk begins and is left out
    hashes = [old_root, *proof] if old_size.bit_count() == 1 else list(proof)
    if consistency_roots(old_size, size, hashes) != (old_root, root):
        raise AuditFailed(f"The log of {size} entries does not begin with the log of {old_size}.")


def consistency_hashes(old_size: int, size: int, subtree: SubtreeRoot) -> list[bytes]:
    """A consistency proof that takes nothing from the older root: see `consistency_roots`."""
    proof = consistency_proof(old_size, size, subtree)
    if 0 < old_size < size and old_size.bit_count() == 1:
        return [tree_root(old_size, subtree), *proof]
    return proof


def consistency_roots(old_size: int, size: int, hashes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Roots of the first `old_size` leaves and of all `size`, as these hashes have them.

    0 < old_size < size. If the second is a tree's root, the first is that of its beginning, for
    nobody can find other hashes with that root: so a signed older root that differs is a lie.
    Raises AuditFailed for another number of hashes.
    """
    if not 0 < old_size < size:
        raise AuditFailed(f"A log of {size} entries did not grow from {old_size}.")
    if not hashes:
        raise AuditFailed("The consistency proof is empty.")
    _check_proof(hashes)
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_root = root = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise AuditFailed("The consistency proof is too long.")
        if position & 1 or position == last:
            old_root, root = node_hash(sibling, old_root), node_hash(sibling, root)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise AuditFailed("The consistency proof is too short.")
    return old_root, root


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(start: int, end: int, subtree: SubtreeRoot) -> bytes:
    """Root over leaves [start, end); `start` is a multiple of the full subtrees inside."""
    count = end - start
    if count.bit_count() == 1:
        level = count.bit_length() - 1
        return subtree(level, start >> level)
    middle = start + _split(count)
    return node_hash(_range_root(start, middle, subtree), _range_root(middle, end, subtree))


def _check_proof(proof: Sequence[bytes]) -> None:
    if len(proof) > PROOF_HASHES_MAX or any(len(sibling) != HASH_BYTES for sibling in proof):
        raise AuditFailed("The proof is too long, or holds something that is no hash.")
