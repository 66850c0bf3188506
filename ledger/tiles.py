"""The log as tiles (C2SP tlog-tiles): static files from which anybody makes every proof. Pure.

    tile/<L>/<N>             256 hashes of level L: leaves at 0, roots of full tiles of L - 1 above
    tile/<L>/<N>.p/<W>       the first W of them, while the tile at the right edge is not full
    tile/entries/<N>[.p/<W>] the entries under tile 0/<N>, each after its length in two bytes
    checkpoint               the newest signed note

<N> is written in groups of three digits, all but the last after an `x`: 1234067 is x001/x234/067.
What is full never changes, so a CDN, a USB stick or a neighbour may keep and give it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ledger.errors import AuditFailed
from ledger.tree import HASH_BYTES, SubtreeRoot, node_hash

__all__ = [
    "ENTRY_BYTES_MAX",
    "TILE_BYTES",
    "TILE_HASHES",
    "TILE_HEIGHT",
    "ReadTile",
    "TileName",
    "decode_entries",
    "encode_entries",
    "parse_tile_path",
    "subtree_from_tiles",
    "tile_width",
    "tiles_of",
]

TILE_HEIGHT = 8
TILE_HASHES = 1 << TILE_HEIGHT
TILE_BYTES = TILE_HASHES * HASH_BYTES
TILE_LEVELS = 8
"""256 to the eighth is beyond every index."""
ENTRY_BYTES_MAX = 0xFFFF
"""An entry's length has two bytes in a bundle."""
TILES_KEPT = 64
"""Of one proof: it reads at most two tiles a level."""
_PATH_CHARACTERS_MAX = 64
_GROUPS_MAX = 7
"""Groups of three digits: 10 to the 21st is beyond every index."""

ReadTile = Callable[[int, int, int], bytes]
"""(level, index, width) -> that many hashes of a tile, one after the other."""


@dataclass(frozen=True, slots=True)
class TileName:
    """One tile. `level` None: the bundle of entries. `width`: 256, or less where it is partial."""

    level: int | None
    index: int
    width: int = TILE_HASHES

    @property
    def is_full(self) -> bool:
        return self.width == TILE_HASHES

    @property
    def path(self) -> str:
        """As it stands behind the log's prefix."""
        groups = [f"{self.index % 1000:03d}"]
        rest = self.index // 1000
        while rest:
            groups.insert(0, f"x{rest % 1000:03d}")
            rest //= 1000
        level = "entries" if self.level is None else str(self.level)
        partial = "" if self.is_full else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(groups)}{partial}"


def parse_tile_path(text: str) -> TileName:
    """The tile a stranger asks for; raises AuditFailed for every other spelling of a path."""
    try:
        if len(text) > _PATH_CHARACTERS_MAX:
            raise ValueError(text)
        base, partial, width = text.partition(".p/")
        start, level, *groups = base.split("/")
        if start != "tile" or not 1 <= len(groups) <= _GROUPS_MAX:
            raise ValueError(text)
        digits = [group.removeprefix("x") for group in groups]
        name = TileName(
            None if level == "entries" else int(level),
            int("".join(digits)),
            int(width) if partial else TILE_HASHES,
        )
    except ValueError:
        raise AuditFailed(f"'{text[:_PATH_CHARACTERS_MAX]}' is no tile.") from None
    is_level = name.level is None or 0 <= name.level < TILE_LEVELS
    if not is_level or not 0 < name.width <= TILE_HASHES or name.path != text:
        raise AuditFailed(f"'{text}' is no tile.")
    return name


def tile_width(level: int, index: int, size: int) -> int:
    """How many hashes that tile has in a log of `size` entries: 0 to 256."""
    hashes = size >> (TILE_HEIGHT * level)
    return min(TILE_HASHES, max(0, hashes - index * TILE_HASHES))


def tiles_of(size: int) -> Iterator[TileName]:
    """Every tile and bundle of a log of `size` entries, as its checkpoint calls for them."""
    for level in range(TILE_LEVELS):
        hashes = size >> (TILE_HEIGHT * level)
        for index in range(-(-hashes // TILE_HASHES)):
            width = tile_width(level, index, size)
            yield TileName(level, index, width)
            if level == 0:
                yield TileName(None, index, width)


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """The bundle of entries under one tile."""
    if any(len(entry) > ENTRY_BYTES_MAX for entry in entries):
        raise AuditFailed(f"An entry has at most {ENTRY_BYTES_MAX} bytes.")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_entries(data: bytes) -> list[bytes]:
    """Entries of a bundle; raises AuditFailed where it ends in the midst of one."""
    entries, position = [], 0
    while position < len(data):
        end = position + 2 + int.from_bytes(data[position : position + 2], "big")
        if end > len(data) or position + 2 > len(data):
            raise AuditFailed("The bundle ends in the midst of an entry.")
        entries.append(data[position + 2 : end])
        position = end
    if len(entries) > TILE_HASHES:
        raise AuditFailed(f"A bundle has at most {TILE_HASHES} entries, not {len(entries)}.")
    return entries


def subtree_from_tiles(size: int, read: ReadTile) -> SubtreeRoot:
    """Full subtrees of a log of `size` entries, for `ledger.tree`'s roots and proofs.

    Tiles are read once and kept, at most TILES_KEPT. Raises AuditFailed for one of another length.
    """
    kept: dict[tuple[int, int], bytes] = {}

    def tile(level: int, index: int) -> bytes:
        if (level, index) not in kept:
            width = tile_width(level, index, size)
            data = read(level, index, width)
            if len(data) != width * HASH_BYTES:
                name = TileName(level, index, width)
                raise AuditFailed(f"{name.path} has {len(data)} bytes, not {width * HASH_BYTES}.")
            if len(kept) == TILES_KEPT:
                kept.pop(next(iter(kept)))
            kept[level, index] = data
        return kept[level, index]

    def subtree(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        tile_index, first = divmod(index << height, TILE_HASHES)
        data = tile(tile_level, tile_index)
        hashes = [
            data[position * HASH_BYTES : (position + 1) * HASH_BYTES]
            for position in range(first, first + (1 << height))
        ]
        while len(hashes) > 1:
            hashes = [node_hash(*hashes[pair : pair + 2]) for pair in range(0, len(hashes), 2)]
        return hashes[0]

    return subtree
