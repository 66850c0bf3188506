"""What of an engine's KV budget is promised, and which closed sequences' rows stay for reuse.

Pure policy, the same on every backend; the rows themselves are the backend's (`Rows` is whatever
holds one sequence's keys and values). An opening reserves its whole capacity, so no step can fail
for want of KV; what gives way is only what nobody uses: reserved + cached <= kv_tokens, always.

    budget = KVBudget(kv_tokens, release)   # release(rows, tokens): forget rows from `tokens` on

    open:   found = budget.open(capacity_tokens, span, prefix)    # OutOfKV: nothing has changed
            None: begin empty. Otherwise begin with length found.tokens, and either found.is_taken:
            found.rows are the sequence's own now, or copy their first found.tokens rows at once.
    failed: budget.cancel(capacity_tokens)  # where the backend could not open after all
    close:  budget.close(capacity_tokens, span, rows, length, keep)   # calls release(rows, kept)

Only closed sequences' rows are shared: an open one still grows, is cut back after a rejected
draft and may be undone, so its reader would need a copy of every row it has seen anyway.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from node.engine.base import PREFIX_BLOCK_TOKENS
from node.engine.errors import OutOfKV
from protocol.route import Span

__all__ = ["ENTRIES_MAX", "Found", "KVBudget"]

ENTRIES_MAX = 256
"""Cached prefixes of one engine: an opening compares its hashes with each one's."""

ROUNDING_SHARE = 8
"""One part in so many of the budget may be lost to whole pages; half of the 15 % that a shard's
memory may pass its weights and KV by."""

Rows = TypeVar("Rows")


@dataclass(frozen=True, slots=True)
class Found(Generic[Rows]):
    """Rows of a closed sequence that begin as the opened one does."""

    rows: Rows
    tokens: int
    """How many rows are of use, a multiple of PREFIX_BLOCK_TOKENS; `rows` may hold more."""
    is_taken: bool
    """The cache has let go of `rows`: they belong to whoever opened. Otherwise copy, and now."""


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(Generic[Rows]):
    """Whole blocks of one closed sequence; `hashes[i]` names its first i + 1 blocks."""

    span: Span
    hashes: tuple[bytes, ...]
    rows: Rows

    @property
    def tokens(self) -> int:
        return len(self.hashes) * PREFIX_BLOCK_TOKENS

    def common_blocks(self, span: Span, hashes: Sequence[bytes]) -> int:
        if span != self.span:
            return 0
        pairs = enumerate(zip(self.hashes, hashes, strict=False))
        shorter = min(len(self.hashes), len(hashes))
        return next((index for index, (ours, theirs) in pairs if ours != theirs), shorter)


class KVBudget(Generic[Rows]):
    """The token accounts of one engine and its cached prefixes. Owned by the engine's thread."""

    def __init__(
        self,
        kv_tokens: int,
        release: Callable[[Rows, int], None],
        *,
        rounding_tokens: int = 1,
    ) -> None:
        """`release(rows, tokens)` forgets rows at or after `tokens`; with 0, `rows` are no more.

        `rounding_tokens`: memory is taken for so many rows at once, so that very many very short
        sequences take more than their tokens; those are refused before memory passes the budget by
        more than ROUNDING_SHARE.
        """
        self._kv_tokens = kv_tokens
        self._release = release
        self._rounding_tokens = rounding_tokens
        self._rounded_max = kv_tokens + kv_tokens // ROUNDING_SHARE + 2 * rounding_tokens
        self._entries: list[_Entry[Rows]] = []  # the least recently used first
        self._reserved_tokens = 0
        self._rounded_tokens = 0
        self._reused_tokens = 0

    @property
    def reserved_tokens(self) -> int:
        """The capacities of all open sequences."""
        return self._reserved_tokens

    @property
    def cached_tokens(self) -> int:
        return sum(entry.tokens for entry in self._entries)

    @property
    def reused_tokens(self) -> int:
        """Rows that openings found, since the engine was loaded."""
        return self._reused_tokens

    def open(
        self, capacity_tokens: int, span: Span, prefix: Sequence[bytes] = ()
    ) -> Found[Rows] | None:
        """Reserve the capacity, evicting cached prefixes where their room is needed.

        Gives the longest cached beginning of the sequence, never all of its capacity: its opener
        still has a row to send. A whole entry that there is no room beside is taken over before
        others are evicted, for the sequence's closing brings it back; a part of one only when all
        others are gone. Raises OutOfKV.
        """
        free = self._kv_tokens - self._reserved_tokens
        rounded = self._rounded(capacity_tokens)
        if capacity_tokens > free:
            raise OutOfKV(
                f"{capacity_tokens} tokens were asked for; of {self._kv_tokens}, {free} are free."
            )
        if self._rounded_tokens + rounded > self._rounded_max:
            raise OutOfKV(
                f"The memory for {self._kv_tokens} tokens is full: each sequence takes whole "
                f"pages, and the open ones are very short."
            )
        self._reserved_tokens += capacity_tokens
        self._rounded_tokens += rounded
        return self._reuse(span, prefix[: (capacity_tokens - 1) // PREFIX_BLOCK_TOKENS])

    def cancel(self, capacity_tokens: int) -> None:
        """Give a reservation back without rows."""
        self._reserved_tokens -= capacity_tokens
        self._rounded_tokens -= self._rounded(capacity_tokens)

    def close(
        self,
        capacity_tokens: int,
        span: Span,
        rows: Rows,
        length: int,
        keep: Sequence[bytes] = (),
    ) -> int:
        """Give the reservation back and keep the whole blocks that `keep` names, if any.

        Calls release for `rows` with what is kept of them, and gives that back: 0 where another
        entry holds more. An entry that the new one equals or continues is dropped: of equal names
        the newer rows are surer, as a hop before this one may have come back with other numerics.
        """
        self.cancel(capacity_tokens)
        hashes = tuple(keep[: length // PREFIX_BLOCK_TOKENS])
        entry, blocks = self._longest(span, hashes)
        is_held = entry is not None and blocks == len(hashes) < len(entry.hashes)
        if not hashes or is_held:
            if entry is not None:
                self._touch(entry)
            self._release(rows, 0)
            return 0
        for other in list(self._entries):
            if other.common_blocks(span, hashes) == len(other.hashes):
                self._evict(other)
        if len(self._entries) == ENTRIES_MAX:
            self._evict(self._entries[0])
        kept = _Entry(span, hashes, rows)
        self._entries.append(kept)
        self._release(rows, kept.tokens)
        return kept.tokens

    def _reuse(self, span: Span, prefix: Sequence[bytes]) -> Found[Rows] | None:
        """Find the longest match and make room for what is reserved."""
        entry, blocks = self._longest(span, prefix)
        if entry is None:
            self._make_room(None)
            return None
        self._touch(entry)
        is_whole = blocks == len(entry.hashes)
        is_taken = (is_whole and not self._has_room) or not self._make_room(entry)
        if is_taken:
            self._entries.remove(entry)
            self._make_room(None)
        tokens = blocks * PREFIX_BLOCK_TOKENS
        self._reused_tokens += tokens
        return Found(entry.rows, tokens, is_taken)

    def _longest(self, span: Span, hashes: Sequence[bytes]) -> tuple[_Entry[Rows] | None, int]:
        """The entry that shares most blocks, of equals the last used, and how many; or None, 0."""
        best: _Entry[Rows] | None = None
        most = 0
        for entry in reversed(self._entries):
            blocks = entry.common_blocks(span, hashes)
            if blocks > most:
                best, most = entry, blocks
        return best, most

    @property
    def _has_room(self) -> bool:
        if self._reserved_tokens + self.cached_tokens > self._kv_tokens:
            return False
        cached = sum(self._rounded(entry.tokens) for entry in self._entries)
        return self._rounded_tokens + cached <= self._rounded_max

    def _make_room(self, spared: _Entry[Rows] | None) -> bool:
        """Evict the least recently used, but for one, until all fits; False if it does not."""
        for entry in list(self._entries):
            if self._has_room:
                break
            if entry is not spared:
                self._evict(entry)
        return self._has_room

    def _evict(self, entry: _Entry[Rows]) -> None:
        self._entries.remove(entry)
        self._release(entry.rows, 0)

    def _touch(self, entry: _Entry[Rows]) -> None:
        self._entries.remove(entry)
        self._entries.append(entry)

    def _rounded(self, tokens: int) -> int:
        return -(-tokens // self._rounding_tokens) * self._rounding_tokens
