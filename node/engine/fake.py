"""FakeEngine: the real interface over small integer arithmetic, needing config.json and no weights.

For flow tests and gateway load benchmarks. Every value is an integer in [0, 251) and survives
fp32, bf16 and int8b32 exactly, so there a model cut anywhere yields the tokens of the uncut one;
int8b32h rounds, so that its tokens depend on the cuts. Each layer keeps a row per position and
reads the row before, so a wrong position, a lost truncate or a mixed-up sequence changes the tokens
that follow.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from node.engine.base import (
    Activation,
    Engine,
    EngineInfo,
    EngineStatistics,
    Output,
    ShardSpec,
    StepItem,
    StepResult,
    TokenIds,
)
from node.engine.errors import ModelNotFound, ModelUnsupported, StepInvalid
from node.engine.prefix_cache import KVBudget
from node.engine.sampler import validate_drawn
from node.engine.validation import find_fault, sequence_span, validate_spec
from node.engine.wire import decode, encode
from protocol.errors import EngineError
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["DELAY_FIELD", "FakeEngine", "load"]

PRIME = 251
"""The largest prime whose residues bf16 holds exactly (8 significant bits)."""

CENTRE = PRIME // 2
"""Residues travel less this: within ±125 a scale of int8b32 is below 1, so rounding undoes it."""

DELAY_FIELD = "fake_step_delay_ms"
"""Optional entry of config.json: how long every step sleeps, in milliseconds."""

Residues = npt.NDArray[np.int64]
"""(tokens, hidden_size), each in [0, PRIME)."""


@dataclass(slots=True)
class _Sequence:
    capacity: int
    sampling: SamplingParameters | None
    span: Span
    length: int = 0
    sums: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    """Per layer (capacity, hidden_size): at row p, the sum over q <= p of (q + 1) * input[q]."""


class FakeEngine(Engine):
    """One shard of a model that exists only as arithmetic."""

    def __init__(self, spec: ShardSpec, info: EngineInfo, *, step_delay_s: float = 0.0) -> None:
        self._spec = spec
        self._info = info
        self._step_delay_s = step_delay_s
        self._sequences: dict[int, _Sequence] = {}
        self._budget: KVBudget[_Sequence] = KVBudget(spec.kv_tokens, _cut)
        self._steps = 0
        self._rows = 0
        self._busy_s = 0.0

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(
        self,
        sequence_id: int,
        *,
        capacity_tokens: int,
        sampling: SamplingParameters | None,
        span: Span | None = None,
        prefix: Sequence[bytes] = (),
        drawn: Sequence[int] = (),
        drawn_at: int = 0,
    ) -> int:
        if sequence_id in self._sequences:
            raise StepInvalid(f"Sequence {sequence_id} is open already.")
        context = self._info.context_tokens
        if not 0 < capacity_tokens <= context:
            raise StepInvalid(f"{capacity_tokens} tokens do not fit the model's context {context}.")
        validate_drawn(drawn, drawn_at, capacity_tokens, vocabulary_size=self._info.vocabulary_size)
        layers = sequence_span(span, self._spec.span)
        found = None
        if len(self._spec.span):
            found = self._budget.open(capacity_tokens, layers, prefix)
        shape = (capacity_tokens, self._info.hidden_size)
        sums = [np.zeros(shape, np.uint8) for _ in range(len(layers))]
        sequence = _Sequence(capacity_tokens, sampling, layers, sums=sums)
        if found is not None:
            sequence.length = found.tokens
            for mine, theirs in zip(sums, found.rows.sums, strict=True):
                mine[: found.tokens] = theirs[: found.tokens]
        self._sequences[sequence_id] = sequence
        return sequence.length

    def step(self, batch: Sequence[StepItem]) -> list[StepResult | EngineError]:
        started = time.perf_counter()
        seen: set[int] = set()
        results: list[StepResult | EngineError] = []
        for item in batch:
            results.append(self._run(item, is_repeated=item.sequence_id in seen))
            seen.add(item.sequence_id)
        if self._step_delay_s:
            time.sleep(self._step_delay_s)
        self._steps += 1
        self._busy_s += time.perf_counter() - started
        return results

    def truncate(self, sequence_id: int, position: int) -> None:
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            raise StepInvalid(f"Sequence {sequence_id} is not open.")
        if position < 0 or (len(self._spec.span) and position > sequence.length):
            raise StepInvalid(f"A sequence of {sequence.length} rows has no position {position}.")
        sequence.length = position

    def close(self, sequence_id: int, *, keep: Sequence[bytes] = ()) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None and len(self._spec.span):
            length = sequence.length
            self._budget.close(sequence.capacity, sequence.span, sequence, length, keep)

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            sequences=len(self._sequences),
            kv_tokens_reserved=self._budget.reserved_tokens,
            kv_tokens_max=self._spec.kv_tokens,
            steps=self._steps,
            rows=self._rows,
            busy_s=self._busy_s,
            kv_tokens_cached=self._budget.cached_tokens,
            reused_tokens=self._budget.reused_tokens,
        )

    def _run(self, item: StepItem, *, is_repeated: bool) -> StepResult | EngineError:
        if is_repeated:
            return StepInvalid(f"Sequence {item.sequence_id} stands in the batch twice.")
        sequence = self._sequences.get(item.sequence_id)
        if sequence is None:
            return StepInvalid(f"Sequence {item.sequence_id} is not open.")
        fault = find_fault(
            item,
            self._spec,
            self._info,
            length=sequence.length,
            capacity=sequence.capacity,
            has_sampling=sequence.sampling is not None,
        )
        if fault is not None:
            return fault
        self._rows += item.count
        if item.tokens is not None:
            rows = _embed(item.tokens, self._info.hidden_size)
        else:
            assert item.hidden is not None
            rows = _from_wire(item.hidden, item.wire_dtype, self._info.hidden_size)
        for index, sums in enumerate(sequence.sums):
            rows = _layer(sequence.span.start + index, rows, sums, item.position)
        sequence.length = item.position + item.count
        wanted = rows[item.count - item.wanted :]
        if item.output is Output.HIDDEN:
            return StepResult(hidden=_to_wire(wanted, item.wire_dtype))
        assert sequence.sampling is not None
        return StepResult(tokens=self._sample(wanted, item.first_drawn, sequence.sampling))

    def _sample(self, rows: Residues, first: int, sampling: SamplingParameters) -> TokenIds:
        """A token a row: a hash of the row, and of (seed, position) unless greedy.

        Without logits there are no penalties: what was drawn before changes nothing.
        """
        tokens = np.empty(len(rows), np.int32)
        for index, row in enumerate(rows):
            key = b"" if sampling.is_greedy else b"%d %d" % (sampling.seed, first + index)
            digest = hashlib.blake2b(row.tobytes(), key=key, digest_size=8).digest()
            tokens[index] = int.from_bytes(digest, "little") % self._info.vocabulary_size
        return tokens


def load(spec: ShardSpec) -> FakeEngine:
    """Read config.json and nothing else; raises ModelNotFound, ModelUnsupported, ShardMismatch."""
    path = spec.directory / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
        layers, hidden_size = int(config["num_hidden_layers"]), int(config["hidden_size"])
        vocabulary_size = int(config["vocab_size"])
    except FileNotFoundError:
        raise ModelNotFound(f"There is no {path}.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnsupported(f"{path} does not describe a model: {error!r}") from error
    validate_spec(spec, layers)
    info = EngineInfo(
        backend="fake",
        family=str(config.get("model_type", "fake")),
        span=spec.span,
        layers=layers,
        hidden_size=hidden_size,
        vocabulary_size=vocabulary_size,
        context_tokens=int(config.get("max_position_embeddings", spec.kv_tokens)),
        weight_bytes=0,
        kv_bytes_per_token=len(spec.span) * hidden_size,
    )
    return FakeEngine(spec, info, step_delay_s=float(config.get(DELAY_FIELD, 0)) / 1000)


def _cut(sequence: _Sequence, length: int) -> None:
    """Forget what a closed sequence's rows held past `length`."""
    for sums in sequence.sums:
        sums[length:] = 0


def _embed(tokens: TokenIds, hidden_size: int) -> Residues:
    columns = np.arange(hidden_size, dtype=np.int64)
    high, low = np.divmod(tokens.astype(np.int64)[:, None], PRIME)
    return (low * (2 * columns + 3) + high * (columns + 1) + columns * columns) % PRIME


def _layer(layer: int, rows: Residues, sums: npt.NDArray[np.uint8], position: int) -> Residues:
    """Append the rows to `sums`, then mix each with the sum up to and with its own position."""
    end = position + len(rows)
    positions = np.arange(position, end, dtype=np.int64)[:, None]
    new = np.cumsum((positions + 1) % PRIME * rows, axis=0)
    if position:
        new += sums[position - 1]
    new %= PRIME
    sums[position:end] = new
    mixed = (layer + 2) * rows + np.roll(new, 1, axis=1) + positions + layer
    return np.asarray(mixed % PRIME, np.int64)


def _from_wire(hidden: Activation, dtype: WireDtype, hidden_size: int) -> Residues:
    values = np.rint(decode(hidden, dtype, hidden_size))
    # A peer may send any finite number; the largest must still fit an integer.
    residues: Residues = (np.clip(values, -1e9, 1e9).astype(np.int64) + CENTRE) % PRIME
    return residues


def _to_wire(rows: Residues, dtype: WireDtype) -> Activation:
    return encode((rows - CENTRE).astype(np.float32), dtype)
