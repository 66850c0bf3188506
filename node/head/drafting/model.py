"""A small model of the same vocabulary, held whole by the head, drafts what the large one may say.

It draws with the answer's own sampling parameters. A draw is keyed by seed and position, so where
the two models see the same odds they draw the same token: sampled drafts hold as often as the
models agree. Its sequence follows the branch: what differs is truncated, what is missing fed.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from node.engine.base import Output, StepItem
from node.engine.errors import QueueFull
from node.engine.runner import EngineRunner
from node.head.drafting.base import Draft
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["FEED_TOKENS", "DraftModel"]

FEED_TOKENS = 256
"""Rows fed in one step: other answers' drafts get their turn between two of them."""

_sequence_ids = itertools.count(1)


class DraftModel:
    """Drafts of one answer over a shard that is a whole model; the runner is shared.

    `vocabulary_size`: of the large model, whose hops refuse any other token. Penalties count what
    the small model drew, not what the large one did: then drafts hold less often.
    """

    works = True

    def __init__(
        self,
        runner: EngineRunner,
        *,
        sampling: SamplingParameters,
        capacity_tokens: int,
        vocabulary_size: int,
        source: str = "model",
    ) -> None:
        self._runner = runner
        self._sampling = sampling
        self._capacity_tokens = min(capacity_tokens, runner.info.context_tokens)
        self._vocabulary_size = vocabulary_size
        self._source = source
        self._sequence_id = next(_sequence_ids)
        self._confirmed = 0
        self._settled = 0
        """Leading rows that are those of confirmed tokens: they need not be compared again."""
        self._rows: list[int] = []
        """Tokens whose rows the engine has for certain."""
        self._drawn: int | None = None
        """What it drew behind the last row."""
        self._is_certain = True
        """Whether the engine has no other rows: not where a step was given up half way."""

    async def open(self) -> None:
        await self._runner.open(
            self._sequence_id, capacity_tokens=self._capacity_tokens, sampling=self._sampling
        )

    def confirm(self, tokens: Sequence[int]) -> None:
        self._confirmed += len(tokens)

    def source(self, branch: Sequence[int]) -> str | None:
        return self._source if len(branch) <= self._capacity_tokens else None

    async def propose(self, branch: Sequence[int], count: int) -> Draft | None:
        """As Drafter; None too where other answers' drafts have filled the engine's queue."""
        if not branch or count <= 0 or len(branch) > self._capacity_tokens:
            return None
        try:
            await self._follow(branch)
            while len(self._rows) + 1 - len(branch) < count:
                if self._drawn is None or len(self._rows) == self._capacity_tokens:
                    break
                await self._feed([self._drawn], draws=True)
        except QueueFull:
            return None
        assert self._drawn is not None
        tokens = [*self._rows[len(branch) :], self._drawn][:count]
        end = next((i for i, t in enumerate(tokens) if t >= self._vocabulary_size), len(tokens))
        return Draft(tuple(tokens[:end]), self._source) if end else None

    async def close(self) -> None:
        await self._runner.close(self._sequence_id)

    async def _follow(self, branch: Sequence[int]) -> None:
        """Bring the sequence to where its rows, and what it drew behind them, extend the branch."""
        shared = self._shared(branch)
        if self._is_certain and self._drawn is not None:
            if shared == len(branch):
                return
            if shared == len(self._rows) == len(branch) - 1 and self._drawn == branch[-1]:
                return
        kept = min(shared, len(branch) - 1)
        if kept < len(self._rows) or not self._is_certain:
            await self._truncate(kept)
        for start in range(kept, len(branch), FEED_TOKENS):
            chunk = branch[start : start + FEED_TOKENS]
            await self._feed(chunk, draws=start + len(chunk) == len(branch))

    def _shared(self, branch: Sequence[int]) -> int:
        """How many leading rows are the branch's."""
        start, stop = self._settled, min(len(self._rows), len(branch))
        shared = stop
        if self._rows[start:stop] != list(branch[start:stop]):
            shared = next(i for i in range(start, stop) if self._rows[i] != branch[i])
        self._settled = min(shared, self._confirmed)
        return shared

    async def _feed(self, tokens: Sequence[int], *, draws: bool) -> None:
        """Run rows, and draw the token behind the last of them if asked to."""
        self._is_certain = False
        self._drawn = None
        result = await self._runner.submit(
            StepItem(
                sequence_id=self._sequence_id,
                position=len(self._rows),
                count=len(tokens),
                wanted=int(draws),
                output=Output.TOKENS,
                wire_dtype=WireDtype.FP32,
                tokens=np.asarray(tokens, dtype=np.int32),
            )
        )
        self._is_certain = True
        self._rows += tokens
        if draws:
            assert result.tokens is not None
            self._drawn = int(result.tokens[0])

    async def _truncate(self, position: int) -> None:
        # before the call: given up half way, the engine has at least the rows that are left here
        del self._rows[position:]
        self._drawn = None
        self._is_certain = False
        await self._runner.truncate(self._sequence_id, position)
        self._is_certain = True
