"""Tiles: paths byte for byte, widths, bundles, and every proof made from tiles alone."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import AuditFailed
from ledger.tiles import (
    ENTRY_BYTES_MAX,
    TileName,
    decode_entries,
    encode_entries,
    parse_tile_path,
    subtree_from_tiles,
    tile_width,
    tiles_of,
)
from ledger.tree import (
    HASH_BYTES,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    right_edge,
    subtree_of,
    tree_root,
)

LEAVES = [leaf_hash(f"entry {index}".encode()) for index in range(1000)]
SUBTREE = subtree_of(LEAVES)


def read(level, index, width):
    """Tiles made straight from the leaves."""
    first = index * 256
    return b"".join(SUBTREE(8 * level, first + position) for position in range(width))


class TestPaths:
    @pytest.mark.parametrize(
        ("name", "path"),
        [
            (TileName(0, 0), "tile/0/000"),
            (TileName(3, 1234067), "tile/3/x001/x234/067"),
            (TileName(0, 273, 112), "tile/0/273.p/112"),
            (TileName(None, 1000), "tile/entries/x001/000"),
            (TileName(None, 5, 1), "tile/entries/005.p/1"),
        ],
    )
    def test_as_the_specification_writes_them(self, name, path):
        assert name.path == path
        assert parse_tile_path(path) == name

    @pytest.mark.parametrize(
        "path",
        [
            "", "tile", "tile/0", "tile/0/0", "tile/0/0000", "tile/00/000", "tile/8/000",
            "tile/-1/000", "tile/0/x000/000", "tile/0/001/000", "tile/0/x001", "tile/0/000.p/0",
            "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/", "tile/0/٠٠٠", "tile/0/ 00",
            "tile/0/000/", "data/0/000", "tile/0/" + "x999/" * 8 + "999",
        ],
    )  # fmt: skip
    def test_every_other_spelling_is_refused(self, path):
        with pytest.raises(AuditFailed):
            parse_tile_path(path)

    @given(st.text(max_size=40))
    def test_arbitrary_text_raises_only_audit_failed(self, text):
        with pytest.raises(AuditFailed):
            parse_tile_path(text)


class TestWidths:
    def test_the_specifications_example_of_70_000_entries(self):
        names = list(tiles_of(70_000))
        by_level = {
            level: [name for name in names if name.level == level] for level in (0, 1, 2, 3, None)
        }
        assert [len(by_level[level]) for level in (0, 1, 2, 3, None)] == [274, 2, 1, 0, 274]
        assert by_level[0][-1] == TileName(0, 273, 112)
        assert by_level[1] == [TileName(1, 0), TileName(1, 1, 17)]
        assert by_level[2] == [TileName(2, 0, 1)]

    def test_256_entries_have_a_full_tile_and_one_hash_above(self):
        assert [name.path for name in tiles_of(256) if name.level is not None] == [
            "tile/0/000",
            "tile/1/000.p/1",
        ]
        assert list(tiles_of(0)) == []
        assert tile_width(0, 5, 256) == 0


class TestBundles:
    @given(st.lists(st.binary(max_size=300), max_size=20))
    def test_round_trip(self, entries):
        assert decode_entries(encode_entries(entries)) == entries

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes_raise_only_audit_failed(self, data):
        with contextlib.suppress(AuditFailed):
            assert encode_entries(decode_entries(data)) == data

    def test_limits(self):
        with pytest.raises(AuditFailed, match="at most"):
            encode_entries([bytes(ENTRY_BYTES_MAX + 1)])
        with pytest.raises(AuditFailed, match="at most 256"):
            decode_entries(bytes(2) * 257)


class TestProofs:
    @given(size=st.integers(1, 1000), data=st.data())
    def test_are_those_of_the_tree(self, size, data):
        subtree = subtree_from_tiles(size, read)
        index = data.draw(st.integers(0, size - 1))
        old = data.draw(st.integers(0, size))
        assert tree_root(size, subtree) == tree_root(size, SUBTREE)
        assert inclusion_proof(index, size, subtree) == inclusion_proof(index, size, SUBTREE)
        assert consistency_proof(old, size, subtree) == consistency_proof(old, size, SUBTREE)

    @given(size=st.integers(0, 1000))
    def test_the_right_edge_goes_on_as_the_tree_does(self, size):
        frontier = Frontier(size, right_edge(size, subtree_from_tiles(size, read)))
        for leaf in LEAVES[size:]:
            frontier.append(leaf)
        assert frontier.root == tree_root(1000, SUBTREE)

    def test_a_tile_of_another_length_is_refused(self):
        subtree = subtree_from_tiles(300, lambda *where: read(*where)[:-HASH_BYTES])
        with pytest.raises(AuditFailed, match="bytes"):
            tree_root(300, subtree)
