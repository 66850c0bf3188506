"""The packaged model, cut for the routes of the harness: loaded once, shared by every fork."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from node.engine.base import ComputeDtype, Engine, Output, ShardSpec, StepItem
from node.engine.store import TINY_MODEL, build_manifest, resolve_model
from node.engine.torch_backend.backend import TorchEngine
from node.engine.torch_backend.shard import Shard, load_shard
from protocol.model import ModelManifest
from protocol.route import Span
from protocol.tensor import WireDtype

__all__ = ["SPANS", "WHOLE", "Shards", "load_shards"]

SPANS: Final = (Span(0, 3), Span(3, 6), Span(6, 8))
ENDS: Final = Span(0, 0)
WHOLE: Final = Span(0, 8)
KV_TOKENS: Final = 4_096
"""Of each provider: half a dozen of the longest sessions. Little, so that what is kept of prefixes
is full after some dozen answers, and memory that grows later is seen."""


@dataclass(frozen=True, slots=True)
class Shards:
    """`engine` gives a fresh engine over weights that lie in memory already."""

    directory: Path
    manifest: ModelManifest
    loaded: dict[Span, tuple[ShardSpec, Shard]]

    def engine(self, span: Span) -> Engine:
        return TorchEngine(*self.loaded[span])


def load_shards() -> Shards:
    """In fp32, where tokens must be identical. Takes seconds."""
    directory = resolve_model(TINY_MODEL, models_directory=None)
    with tempfile.TemporaryDirectory() as cache:
        manifest = build_manifest(directory, TINY_MODEL, cache_directory=Path(cache))
    loaded = {}
    for span in (*SPANS, ENDS, WHOLE):
        embeds, has_head = span.start == 0, span.end in (0, WHOLE.end)
        spec = ShardSpec(
            directory, span, embeds, has_head, compute_dtype=ComputeDtype.FP32, kv_tokens=KV_TOKENS
        )
        loaded[span] = spec, load_shard(spec)
    shards = Shards(directory, manifest, loaded)
    for span in (*SPANS, WHOLE):
        _warm(shards.engine(span))
    return shards


def _warm(engine: Engine) -> None:
    """What torch does once for each kernel, done before there are forks that would all do it."""
    hidden, tokens = engine.info.hidden_size, engine.info.span.start == 0
    engine.open(1, capacity_tokens=512, sampling=None)
    position = 0
    for count in (256, 1, 5, 1):
        rows = (
            {"tokens": np.zeros(count, dtype=np.int32)}
            if tokens
            else {"hidden": np.zeros((count, hidden), dtype=np.float32)}
        )
        item = StepItem(1, position, count, 1, Output.HIDDEN, WireDtype.FP32, **rows)
        (result,) = engine.step([item])
        if isinstance(result, Exception):
            raise result
        position += count
    engine.close(1)
