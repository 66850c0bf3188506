"""RFC 6962 trees: the published vectors, then properties against a plain recursive definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import AuditFailed
from ledger.tree import (
    EMPTY_ROOT,
    PROOF_HASHES_MAX,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    subtree_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

# the entries and roots of certificate-transparency's and transparency-dev/merkle's tests
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# (leaf, size) and (older, newer) of the same tests; leaves count from 0 here
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): INCLUSION[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (6, 7): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
SIZES = st.integers(min_value=1, max_value=130)


def leaves_of(size: int) -> list[bytes]:
    return [leaf_hash(f"entry {index}".encode()) for index in range(size)]


def plain_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(plain_root(leaves[:split]), plain_root(leaves[split:]))


class TestVectors:
    @pytest.mark.parametrize("size", range(len(ROOTS)))
    def test_root_of_each_size(self, size):
        leaves = [leaf_hash(entry) for entry in ENTRIES[:size]]
        assert tree_root(size, subtree_of(leaves)).hex() == ROOTS[size]

    @pytest.mark.parametrize("place", INCLUSION)
    def test_inclusion_proof(self, place):
        index, size = place
        leaves = [leaf_hash(entry) for entry in ENTRIES]
        proof = inclusion_proof(index, size, subtree_of(leaves))
        assert [item.hex() for item in proof] == INCLUSION[place]
        verify_inclusion(leaves[index], index, size, proof, bytes.fromhex(ROOTS[size]))

    @pytest.mark.parametrize("sizes", CONSISTENCY)
    def test_consistency_proof(self, sizes):
        older, newer = sizes
        leaves = [leaf_hash(entry) for entry in ENTRIES]
        proof = consistency_proof(older, newer, subtree_of(leaves))
        assert [item.hex() for item in proof] == CONSISTENCY[sizes]
        roots = [bytes.fromhex(ROOTS[size]) for size in sizes]
        verify_consistency(older, roots[0], newer, roots[1], proof)


class TestFrontier:
    def test_root_and_encoding_at_every_size(self):
        leaves, frontier = leaves_of(300), Frontier()
        for size in range(1, 301):
            frontier.append(leaves[size - 1])
            assert frontier.root == plain_root(leaves[:size])
            again = Frontier(size, frontier.encode())
            assert again.root == frontier.root

    def test_completed_nodes_are_the_full_subtrees(self):
        leaves, frontier = leaves_of(64), Frontier()
        completed = [node for leaf in leaves for node in frontier.append(leaf)]
        subtree = subtree_of(leaves)
        assert completed
        assert all(root == subtree(level, index) for level, index, root in completed)
        assert len(completed) == 63

    def test_encoding_of_another_size_is_refused(self):
        with pytest.raises(AuditFailed):
            Frontier(3, bytes(32))


class TestInclusion:
    @given(size=SIZES, data=st.data())
    def test_every_leaf_verifies(self, size, data):
        index = data.draw(st.integers(0, size - 1))
        leaves = leaves_of(size)
        proof = inclusion_proof(index, size, subtree_of(leaves))
        verify_inclusion(leaves[index], index, size, proof, plain_root(leaves))

    @given(size=st.integers(2, 130), data=st.data())
    def test_forged_proofs_fail(self, size, data):
        leaves = leaves_of(size)
        index = data.draw(st.integers(0, size - 1))
        root, proof = plain_root(leaves), inclusion_proof(index, size, subtree_of(leaves))
        position = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[position][0] ^ 1]) + proof[position][1:]
        other = data.draw(st.integers(0, size - 1).filter(lambda other: other != index))
        forgeries = [
            (leaves[index], index, [*proof[:position], flipped, *proof[position + 1 :]]),
            (leaves[index], index, proof[:-1]),
            (leaves[index], index, [*proof, bytes(32)]),
            (leaves[other], index, proof),
            (leaf_hash(b"never logged"), index, proof),
            (leaves[index], other, proof),
        ]
        for leaf, claimed, forged in forgeries:
            with pytest.raises(AuditFailed):
                verify_inclusion(leaf, claimed, size, forged, root)

    @pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 4), (4, 4)])
    def test_leaf_outside_the_tree(self, index, size):
        with pytest.raises(AuditFailed):
            inclusion_proof(index, size, subtree_of(leaves_of(max(size, 1))))
        with pytest.raises(AuditFailed):
            verify_inclusion(bytes(32), index, size, [], bytes(32))

    def test_proof_beyond_any_tree_is_refused_before_hashing(self):
        with pytest.raises(AuditFailed):
            verify_inclusion(bytes(32), 0, 2, [bytes(32)] * (PROOF_HASHES_MAX + 1), bytes(32))


class TestConsistency:
    @given(size=SIZES, data=st.data())
    def test_every_earlier_size_verifies(self, size, data):
        old = data.draw(st.integers(0, size))
        leaves = leaves_of(size)
        proof = consistency_proof(old, size, subtree_of(leaves))
        verify_consistency(old, plain_root(leaves[:old]), size, plain_root(leaves), proof)

    @given(size=st.integers(2, 130), data=st.data())
    def test_forged_proofs_fail(self, size, data):
        old = data.draw(st.integers(1, size - 1))
        leaves = leaves_of(size)
        proof = consistency_proof(old, size, subtree_of(leaves))
        old_root, root = plain_root(leaves[:old]), plain_root(leaves)
        position = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[position][0] ^ 1]) + proof[position][1:]
        forgeries = [
            (old_root, root, [*proof[:position], flipped, *proof[position + 1 :]]),
            (old_root, root, proof[:-1]),
            (old_root, root, [*proof, bytes(32)]),
            (bytes(32), root, proof),
            (old_root, bytes(32), proof),
            (root, old_root, proof),
        ]
        for claimed_old, claimed_new, forged in forgeries:
            with pytest.raises(AuditFailed):
                verify_consistency(old, claimed_old, size, claimed_new, forged)

    def test_rewritten_history_has_no_proof(self):
        honest = leaves_of(20)
        forked = [*honest[:3], leaf_hash(b"rewritten"), *honest[4:]]
        proof = consistency_proof(10, 20, subtree_of(forked))
        with pytest.raises(AuditFailed):
            verify_consistency(10, plain_root(honest[:10]), 20, plain_root(forked), proof)

    def test_the_same_size_needs_the_same_root(self):
        with pytest.raises(AuditFailed):
            verify_consistency(4, bytes(32), 4, b"\1" * 32, [])

    def test_a_shrinking_log_is_refused(self):
        with pytest.raises(AuditFailed):
            consistency_proof(5, 4, subtree_of(leaves_of(5)))
        with pytest.raises(AuditFailed):
            verify_consistency(5, bytes(32), 4, bytes(32), [])
