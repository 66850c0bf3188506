"""Attention that torch's own kernel cannot do: capped scores, sinks, latent keys and values.

Each takes the place of `scaled_dot_product_attention` and has its signature: query (slots, heads,
rows, key_dim), key and value (slots, kv_heads, seen, ...), a mask that is added to the scores, and
gives (slots, heads, rows, value_dim). Scores and their softmax are in fp32 whatever the rows are
in; they are made for so many rows at a time that they take at most SCORES_MAX numbers.
"""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Kernel", "capped_attention", "latent_attention", "sink_attention"]

Kernel = Callable[..., torch.Tensor]
"""Called as scaled_dot_product_attention is, with `attn_mask`, `scale` and, for many rows of one
sequence, `is_causal` and `enable_gqa`."""

SCORES_MAX = 2**24
"""Numbers in one piece of the score matrix: 64 MiB in fp32. 32 heads over 8192 rows of context are
then made for 64 rows at a time, enough for a matrix product to run at full speed."""

Scores = Callable[[torch.Tensor], torch.Tensor]
"""Query rows by KV head, (slots, kv_heads, rows, key_dim), to scaled fp32 scores (..., seen)."""


def capped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    cap: float,
    scale: float,
    **options: Any,
) -> torch.Tensor:
    """Scores s become cap * tanh(s / cap), before the mask (Gemma 2, arXiv 2408.00118)."""

    def scores(part: torch.Tensor) -> torch.Tensor:
        return _products(part, key).mul_(scale / cap).tanh_().mul_(cap)

    return _attend(query, value, scores, **options)


def sink_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    sinks: torch.Tensor,
    scale: float,
    **options: Any,
) -> torch.Tensor:
    """A logit per head, `sinks` (heads,), joins the softmax and takes its share (gpt-oss)."""

    def scores(part: torch.Tensor) -> torch.Tensor:
        return _products(part, key).mul_(scale)

    return _attend(query, value, scores, sinks=sinks.float(), **options)


def latent_attention(
    query: torch.Tensor,
    latent: torch.Tensor,
    rotated: torch.Tensor,
    *,
    scale: float,
    **options: Any,
) -> torch.Tensor:
    """One latent row is key and value of all heads (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    query: (slots, heads, rows, rank + rope) with the first `rank` numbers already in the latents'
    space; latent: (slots, 1, seen, rank); rotated: (slots, 1, seen, rope). Gives sums of latents,
    (slots, heads, rows, rank).
    """
    rank = latent.shape[-1]

    def scores(part: torch.Tensor) -> torch.Tensor:
        products = _products(part[..., :rank], latent)
        return products.add_(_products(part[..., rank:], rotated)).mul_(scale)

    return _attend(query, latent, scores, **options)


def _products(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(..., rows, dim) and (..., seen, dim) to (..., rows, seen) in fp32.

    Keys stand on the left: turned round, oneDNN would first copy a slab's bf16 rows, which took
    three to four times as long.
    """
    return torch.matmul(key, query.mT).mT.float().contiguous()


def _attend(
    query: torch.Tensor,
    value: torch.Tensor,
    scores: Scores,
    *,
    attn_mask: torch.Tensor | None = None,
    is_causal: bool = False,
    enable_gqa: bool = False,
    sinks: torch.Tensor | None = None,
    scores_max: int = SCORES_MAX,
) -> torch.Tensor:
    """Softmax over masked scores, piece by piece; without `enable_gqa` heads are KV heads."""
    slots, heads, rows, _ = query.shape
    kv_heads, seen = value.shape[1:3]
    group = heads // kv_heads
    assert group == 1 or enable_gqa
    sink_by_row = None
    if sinks is not None:
        # One KV head's query lines are its heads' rows end to end, whichever form they come in.
        by_kv_head = sinks.view(kv_heads, -1)
        lines = group * rows // by_kv_head.shape[1]
        sink_by_row = by_kv_head.repeat_interleave(lines, dim=1).view(kv_heads, group, rows, 1)
    pieces = []
    step = max(1, scores_max // (slots * heads * seen))
    for start in range(0, rows, step):
        part = query[:, :, start : start + step]
        lines = group * part.shape[2]
        by_head = part.reshape(slots, kv_heads, lines, -1)
        made = scores(by_head).view(slots, kv_heads, group, -1, seen)
        if is_causal:
            hidden = torch.ones(part.shape[2], seen, dtype=torch.bool, device=query.device)
            made.masked_fill_(hidden.triu_(start + 1), float("-inf"))
        elif attn_mask is not None:
            made += _mask_piece(attn_mask, start, step)
        sink = None if sink_by_row is None else sink_by_row[:, :, start : start + step]
        weights = _softmax(made, sink).to(value.dtype).view(slots, kv_heads, lines, seen)
        pieces.append(torch.matmul(weights, value).view(slots, heads, part.shape[2], -1))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def _mask_piece(mask: torch.Tensor, start: int, step: int) -> torch.Tensor:
    """The mask for some rows: it is one for all slots, (rows, seen), or one row for each slot."""
    return mask[start : start + step] if mask.dim() == 2 else mask.unsqueeze(2)


def _softmax(scores: torch.Tensor, sink: torch.Tensor | None) -> torch.Tensor:
    """In place; a sink joins the sum, and its own weight is dropped."""
    if sink is None:
        return scores.softmax(-1)
    top = torch.maximum(scores.amax(-1, keepdim=True), sink)
    weights = scores.sub_(top).exp_()
    return weights.div_(weights.sum(-1, keepdim=True) + (sink - top).exp_())
