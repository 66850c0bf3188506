"""Latent attention (MLA): what a layer keeps of a token is one small vector for all heads.

The families' own classes expand every cached latent of every sequence into keys and values each
step. Here the two halves of that expansion move to the other side of the products instead: queries
go into the latents' space before they meet them, and sums of latents come out of it afterwards.
The numbers are the same; a decode of DeepSeek-V3 takes 1/120 of the arithmetic per cached token,
and KV holds `kv_lora_rank + qk_rope_head_dim` numbers a token and layer, as the paper has it.
Expanding would win only from about 170 rows of one sequence a step on, by less than its attention
costs in all. Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.2.
"""

from typing import Any

import torch
from torch import nn

from node.engine.errors import ModelUnsupported

__all__ = ["LatentProjection", "keep_latents"]


class LatentProjection(nn.Module):
    """The expansion's weight (`kv_b_proj`), cut into its half for keys and its half for values."""

    def __init__(self, weight: torch.Tensor, heads: int, key_dim: int) -> None:
        """`weight`: (heads * (key_dim + value_dim), rank); key_dim without the rotated part."""
        super().__init__()
        by_head = weight.detach().view(heads, -1, weight.shape[1])
        key, value = by_head[:, :key_dim], by_head[:, key_dim:]
        self.key = nn.Parameter(key.contiguous(), requires_grad=False)
        self.value = nn.Parameter(value.mT.contiguous(), requires_grad=False)

    def into_latents(self, query: torch.Tensor) -> torch.Tensor:
        """(heads, N, key_dim + rope) to (heads, N, rank + rope)."""
        plain, rotated = query.split((self.key.shape[1], query.shape[2] - self.key.shape[1]), -1)
        return torch.cat((torch.bmm(plain, self.key), rotated), dim=-1)

    def out_of_latents(self, rows: torch.Tensor) -> torch.Tensor:
        """(N, heads, rank) to (N, heads, value_dim)."""
        return torch.bmm(rows.transpose(0, 1), self.value).transpose(0, 1)


def keep_latents(attention: Any) -> None:
    """Let a transformers MLA layer hand latents, not keys and values, to its attention function.

    Takes over `kv_b_proj`, which is empty afterwards. ModelUnsupported where the class of this
    transformers version is built otherwise.
    """
    if not hasattr(attention, "expand_kv"):
        raise ModelUnsupported(
            "This transformers version expands latents in another place.",
            hint="Install the version that pyproject.toml names.",
        )
    attention.latent_projection = LatentProjection(
        attention.kv_b_proj.weight, attention.num_heads, attention.qk_nope_head_dim
    )
    attention.kv_b_proj = nn.Identity()
    attention.expand_kv = _as_they_are


def _as_they_are(latent: torch.Tensor, rotated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return latent, rotated
