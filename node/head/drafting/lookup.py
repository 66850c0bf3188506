"""Prompt lookup: what followed the last time these tokens stood here follows again.

Costs nothing and needs no model; hits where an answer copies from its prompt or from itself: code,
summaries, edits. Places are found as in LZ77: a table from the last two tokens to the latest place
they ended at, and from each place a link to the one before. After Saxena, "Prompt lookup
decoding", 2023.
"""

from array import array
from collections.abc import Sequence

from node.head.drafting.base import Draft

__all__ = ["MATCH_LENGTHS", "PromptLookup"]

MATCH_LENGTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Lengths of a match whose acceptance is learned apart: the longer, the surer. In tokens."""

PLACES_MAX = 48
"""Places compared for one draft, latest first: a common pair of tokens stands at thousands."""

INDEX_TOKENS_MAX = 65_536
"""Pairs in one of the two tables; beyond two tables' worth the oldest places are forgotten."""

INDEX_STEP_TOKENS = 8192
"""Tokens indexed in one call, about 3 ms: a long prompt must not hold up other sessions."""


class PromptLookup:
    """Drafts by copying. Of one answer; confirmed tokens alone are searched."""

    works = False

    def __init__(self) -> None:
        self._confirmed = 0
        self._indexed = 0
        """Leading tokens that are in the tables."""
        self._latest: dict[int, int] = {}
        """Two tokens to the place behind their latest occurrence."""
        self._older: dict[int, int] = {}
        """The table before this one, for places that are not in it."""
        self._before = array("I", (0, 0))
        """By place: an earlier place behind the same two tokens; 0 is none."""

    async def open(self) -> None:
        """Nothing to open."""

    def confirm(self, tokens: Sequence[int]) -> None:
        self._confirmed += len(tokens)

    def source(self, branch: Sequence[int]) -> str | None:
        _, length = self._find(branch)
        return _source(length) if length else None

    async def propose(self, branch: Sequence[int], count: int) -> Draft | None:
        place, length = self._find(branch)
        if not length or count <= 0:
            return None
        tokens = list(branch[place : place + count])
        while len(tokens) < count:
            # the copy has reached the end of the branch and goes on into itself
            tokens.append(tokens[len(tokens) - (len(branch) - place)])
        return Draft(tuple(tokens), _source(length))

    async def close(self) -> None:
        """Nothing was opened."""

    def _find(self, branch: Sequence[int]) -> tuple[int, int]:
        """The place whose continuation to copy, and how many tokens match before it; (0, 0)."""
        self._index(branch)
        end = len(branch)
        best = (0, 0)
        if end < MATCH_LENGTHS[0]:
            return best
        pair = _pair(branch[-2], branch[-1])
        place = self._latest.get(pair) or self._older.get(pair, 0)
        for _ in range(PLACES_MAX):
            if not place:
                break
            if place < end:
                length = _match_length(branch, place, end)
                if length > best[1]:
                    best = (place, length)
                if length == MATCH_LENGTHS[-1]:
                    break
            place = self._before[place]
        return best

    def _index(self, branch: Sequence[int]) -> None:
        stop = min(self._confirmed, self._indexed + INDEX_STEP_TOKENS)
        for index in range(max(self._indexed, 1), stop):
            if len(self._latest) >= INDEX_TOKENS_MAX:
                self._older, self._latest = self._latest, {}
            pair = _pair(branch[index - 1], branch[index])
            self._before.append(self._latest.get(pair) or self._older.get(pair, 0))
            self._latest[pair] = index + 1
        self._indexed = stop


def _pair(first: int, second: int) -> int:
    return first << 32 | second


def _match_length(branch: Sequence[int], place: int, end: int) -> int:
    """How many tokens before `place` are those before `end`, at most the longest match."""
    longest = min(MATCH_LENGTHS[-1], place)
    length = 0
    while length < longest and branch[place - 1 - length] == branch[end - 1 - length]:
        length += 1
    return length


def _source(length: int) -> str:
    return f"lookup:{max(n for n in MATCH_LENGTHS if n <= length)}"
