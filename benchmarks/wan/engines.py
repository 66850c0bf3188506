"""What runs in a bed's hops and at its head: a roofline of some shape, or the packaged model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.wan.roofline import RooflineEngine
from benchmarks.wan.scripted_shard import ScriptedShard
from benchmarks.wan.shapes import CONTEXT_TOKENS, SHAPES, VOCABULARY, Curve, Shape
from node.engine.async_engine import AsyncEngine
from node.engine.base import ComputeDtype, ShardSpec
from node.engine.worker import EngineWorker
from protocol.model import ModelManifest
from protocol.route import Span

__all__ = ["TINY", "TINY_DIRECTORY", "EngineChoice"]

TINY: Final = "tiny"
TINY_DIRECTORY: Final = Path(__file__).parents[2] / "node" / "assets" / "piecework-tiny"
KV_TOKENS: Final = 16_384


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which model, and how fast: `curve` None takes the shape's own."""

    model: str
    curve: Curve | None = None

    @property
    def shape(self) -> Shape:
        """Sizes; of the packaged model the curve is unknown and counts as no time."""
        if self.model == TINY:
            return Shape("tiny", hidden_size=192, layers=8, curve=Curve(0.0, 0.0))
        shape = SHAPES[self.model]
        return Shape(shape.name, shape.hidden_size, shape.layers, self.curve or shape.curve)

    @property
    def manifest(self) -> ModelManifest:
        """Good for a session; its tensors are not listed."""
        is_tiny, shape = self.model == TINY, self.shape
        return ModelManifest(
            name=f"bench/{shape.name}",
            family="llama" if is_tiny else "roofline",
            layers=shape.layers,
            hidden_size=shape.hidden_size,
            vocabulary_size=2048 if is_tiny else VOCABULARY,
            context_tokens=2048 if is_tiny else CONTEXT_TOKENS,
            dtype="fp32",
            licence="",
            resale_allowed=True,
            config_sha256=bytes(32),
            tokenizer_sha256=bytes(32),
            tensors=(),
        )

    async def start(self, span: Span, *, embeds: bool, has_head: bool, ends: bool) -> AsyncEngine:
        """Load a shard in this process, or in one of its own. `ends`: the head's own, no wait."""
        if self.model == TINY:
            spec = ShardSpec(
                TINY_DIRECTORY, span, embeds, has_head, compute_dtype=ComputeDtype.FP32,
                kv_tokens=KV_TOKENS, device="cpu",
            )  # fmt: skip
            return await EngineWorker.start(spec, backend="torch")
        shard = ScriptedShard(self.shape, span, embeds=embeds, has_head=has_head)
        return RooflineEngine(shard, Curve(0.0, 0.0) if ends else self.shape.curve)

    def to_json(self) -> dict[str, Any]:
        curve = self.curve and [self.curve.step_ms, self.curve.row_ms]
        return {"model": self.model, "curve": curve}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "EngineChoice":
        curve = fields["curve"]
        return cls(fields["model"], Curve(*curve) if curve else None)
