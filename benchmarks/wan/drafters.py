"""A drafter of a given acceptance: it knows the roofline's text, and is wrong as often as told."""

from collections.abc import Sequence
from random import Random

from benchmarks.wan.script import Script
from benchmarks.wan.shapes import VOCABULARY
from node.head.drafting.base import Draft

__all__ = ["ScriptDrafter"]


class ScriptDrafter:
    """Implements Drafter. Each token is right with that chance; a draft costs nothing."""

    works = False

    def __init__(self, acceptance: float, *, seed: int = 0) -> None:
        self._acceptance = acceptance
        self._seed = seed
        self._script = Script(VOCABULARY)

    async def open(self) -> None:
        """Nothing to open."""

    def confirm(self, tokens: Sequence[int]) -> None:
        """It knows already."""

    def source(self, branch: Sequence[int]) -> str | None:
        return "script"

    async def propose(self, branch: Sequence[int], count: int) -> Draft | None:
        start = len(branch)
        right = self._script.tokens(start, count).tolist()
        tokens = (self._token(start + n, token) for n, token in enumerate(right))
        return Draft(tuple(tokens), "script") if count > 0 else None

    async def close(self) -> None:
        """Nothing was opened."""

    def _token(self, position: int, right: int) -> int:
        """The same whenever that position is drafted."""
        holds = Random(self._seed << 32 | position).random() < self._acceptance
        return right if holds else (right + 1) % VOCABULARY
