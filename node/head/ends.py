"""Where tokens become activations and logits become tokens, seen from the head.

Sealed route: the head's own shard, an empty span with both ends, batched over all its sessions.
Open route: hop 0 embeds and the last hop samples, so the head only packs and unpacks token ids.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from node.engine.base import Output, StepItem, TokenIds
from node.engine.runner import EngineRunner
from node.engine.wire import from_payload
from protocol.frame import Result
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["Ends", "OpenEnds", "SealedEnds"]

_sequence_ids = itertools.count(1)


class Ends(Protocol):
    """The two ends of one session."""

    dtype: WireDtype | None
    """Of the payloads that go to hop 0; None for token ids."""

    async def open(self) -> None: ...

    async def embed(self, tokens: Sequence[int], position: int) -> bytes:
        """The payload of a step with these tokens."""
        ...

    async def draw(self, result: Result) -> list[int]:
        """One token for each wanted row of a result; token i belongs behind row i."""
        ...

    async def close(self) -> None: ...


class OpenEnds:
    """Nothing to compute here."""

    dtype: WireDtype | None = None

    async def open(self) -> None:
        """The hops open their own."""

    async def embed(self, tokens: Sequence[int], position: int) -> bytes:
        return np.asarray(tokens, dtype="<i4").tobytes()

    async def draw(self, result: Result) -> list[int]:
        return [int(token) for token in np.frombuffer(result.payload, dtype="<i4")]

    async def close(self) -> None:
        """Nothing was opened."""


class SealedEnds:
    """Embeds and samples on the head's own shard; needs a fresh sequence there."""

    def __init__(
        self,
        runner: EngineRunner,
        *,
        wire_dtype: WireDtype,
        sampling: SamplingParameters,
        capacity_tokens: int,
    ) -> None:
        self.dtype: WireDtype | None = wire_dtype
        self._runner = runner
        self._wire_dtype = wire_dtype
        self._sampling = sampling
        self._capacity_tokens = capacity_tokens
        self._sequence_id = next(_sequence_ids)

    async def open(self) -> None:
        await self._runner.open(
            self._sequence_id, capacity_tokens=self._capacity_tokens, sampling=self._sampling
        )

    async def embed(self, tokens: Sequence[int], position: int) -> bytes:
        ids: TokenIds = np.asarray(tokens, dtype=np.int32)
        result = await self._runner.submit(
            StepItem(
                sequence_id=self._sequence_id,
                position=position,
                count=len(ids),
                wanted=len(ids),
                output=Output.HIDDEN,
                wire_dtype=self._wire_dtype,
                tokens=ids,
            )
        )
        assert result.hidden is not None
        return result.hidden.tobytes()

    async def draw(self, result: Result) -> list[int]:
        rows = from_payload(
            result.payload, self._wire_dtype, count=result.wanted, hidden_size=result.hidden_size
        )
        drawn = await self._runner.submit(
            StepItem(
                sequence_id=self._sequence_id,
                position=result.position + result.count - result.wanted,
                count=result.wanted,
                wanted=result.wanted,
                output=Output.TOKENS,
                wire_dtype=self._wire_dtype,
                hidden=rows,
            )
        )
        assert drawn.tokens is not None
        return [int(token) for token in drawn.tokens]

    async def close(self) -> None:
        await self._runner.close(self._sequence_id)
