"""What some families do around their layers, in the part of their `forward` that our loop skips.

Settings that are not named here are refused by `families.py` unless they lie inside a layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["FinishLogits", "finish_logits_of", "scale_embedding"]

FinishLogits = Callable[[torch.Tensor], torch.Tensor]
"""What comes out of the LM head, (N, vocabulary) float32, to the logits; may work in place."""


class ScaledEmbedding(nn.Module):
    """An embedding whose rows are multiplied on their way into the first layer (Granite)."""

    def __init__(self, embedding: nn.Module, factor: float) -> None:
        super().__init__()
        self.embedding = embedding
        self._factor = factor

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.embedding(ids) * self._factor
        return rows


def scale_embedding(family: str, config: Any, embedding: nn.Module) -> nn.Module:
    """The embedding as the family's first layer wants it; `config` is transformers'."""
    if family != "granite":
        return embedding
    return ScaledEmbedding(embedding, float(config.embedding_multiplier))


def finish_logits_of(family: str, config: Any) -> FinishLogits:
    """The family's last step; `config` is transformers'."""
    match family:
        case "gemma2" | "gemma3_text" if config.final_logit_softcapping is not None:
            cap = float(config.final_logit_softcapping)
            return lambda logits: logits.div_(cap).tanh_().mul_(cap)
        case "granite":
            divisor = float(config.logits_scaling)
            return lambda logits: logits.div_(divisor)
        case "cohere2":
            factor = float(config.logit_scale)
            return lambda logits: logits.mul_(factor)
    return _as_they_are


def _as_they_are(logits: torch.Tensor) -> torch.Tensor:
    return logits
