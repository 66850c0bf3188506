"""What a wire dtype does to an answer: the trained model, its rows through the codec at the cuts.

The model runs in fp32 in transformers, and what leaves a cut layer is encoded and decoded in place.
Answers of 200 greedy tokens are made once in fp32; then every position is asked again (teacher
forcing), because free-running text leaves its path sooner or later under any rounding.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from node.engine.store import TINY_MODEL, resolve_model
from node.engine.wire import decode, encode
from protocol.tensor import WireDtype

__all__ = ["LINKS", "Deviation", "bf16_deviation", "deviation"]

ANSWER_TOKENS = 200
LINKS: dict[str, Sequence[int]] = {
    "1 cut": (3,),
    "3 cuts": (1, 3, 5),
    "3 hops, sealed": (-1, 2, 5, 7),
}
"""Where rows travel: behind which of the model's eight layers, -1 being the embedding."""

OUTLIERS = ((5, 40.0), (100, -25.0))
"""Massive activations: (channel, how many times its token's RMS it is raised on the wire)."""

QUESTIONS = (
    "Explain what a span is and why a model runs in pieces.",
    "Why does a route have hops?",
    "Tell me a story.",
    "Write a Python function that adds two numbers.",
)
PROSE = (
    "The import statement combines two operations; it searches for the named module, then",
    "A class definition defines a class object. The inheritance list",
    "Return a new array of given shape and type,",
    "If the argument is a string, it must contain either a decimal number or",
)
"""Beginnings that the model has not learned by heart, so that its choices are close ones."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """Against the model in fp32: the logits' relative error, and the share of equal top tokens."""

    relative_error: float
    agreement: float
    tokens: int


@dataclass(frozen=True, slots=True)
class _Answers:
    model: Any
    ids: tuple[torch.Tensor, ...]
    """(1, tokens) each: prompt and answer."""
    logits: tuple[torch.Tensor, ...]
    """(ANSWER_TOKENS, vocabulary) each, in fp32: what each token of the answer was drawn from."""


def deviation(dtype: WireDtype, links: str, *, has_outliers: bool = False) -> Deviation:
    """Of the model whose rows travel as `dtype` on some of LINKS."""
    answers = _answers()
    body = answers.model.model

    def travel(module: object, given: object, rows: torch.Tensor) -> torch.Tensor:
        return _round_trip(rows, dtype, has_outliers=has_outliers)

    hooks = [
        (body.embed_tokens if layer < 0 else body.layers[layer]).register_forward_hook(travel)
        for layer in LINKS[links]
    ]
    try:
        return _compare(_logits_of(answers.model, answers.ids), answers.logits)
    finally:
        for hook in hooks:
            hook.remove()


@functools.cache
def bf16_deviation() -> Deviation:
    """Of the whole model computed in bf16: the noise that is there without any wire."""
    answers = _answers()
    return _compare(_logits_of(_load(torch.bfloat16), answers.ids), answers.logits)


def _round_trip(rows: torch.Tensor, dtype: WireDtype, *, has_outliers: bool) -> torch.Tensor:
    """(1, tokens, hidden_size) as it is behind a cut; outliers are there on the wire only."""
    raised = torch.zeros_like(rows)
    if has_outliers:
        size = rows.square().mean(-1).sqrt()
        for channel, factor in OUTLIERS:
            raised[..., channel] = factor * size
    sent = (rows + raised)[0].numpy()
    taken = decode(encode(sent, dtype), dtype, sent.shape[1])
    return torch.from_numpy(taken)[None] - raised


@functools.cache
def _answers() -> _Answers:
    """Made once; they are what everything is compared with."""
    directory = resolve_model(TINY_MODEL, models_directory=None)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in QUESTIONS
    ]
    model = _load(torch.float32)
    ids = tuple(_answer_all(model, tokenizer, (*chats, *PROSE)))
    return _Answers(model, ids, tuple(_logits_of(model, ids)))


def _load(dtype: torch.dtype) -> Any:
    directory = resolve_model(TINY_MODEL, models_directory=None)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def _answer_all(model: Any, tokenizer: Any, texts: Sequence[str]) -> Iterable[torch.Tensor]:
    """(1, tokens) of each text: its tokens and ANSWER_TOKENS greedy ones."""
    prompts = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_tensors="pt",
        padding=True,
        padding_side="left",
    )
    with torch.inference_mode():
        ids = model.generate(
            prompts.input_ids,
            attention_mask=prompts.attention_mask,
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    for row, prompt_tokens in zip(ids, prompts.attention_mask.sum(1), strict=True):
        yield row[None, -(int(prompt_tokens) + ANSWER_TOKENS) :]


def _logits_of(model: Any, ids: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model(each).logits[0, -ANSWER_TOKENS - 1 : -1].float() for each in ids]


def _compare(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> Deviation:
    ours, theirs = torch.cat(list(found)), torch.cat(list(expected))
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
    error = (ours - theirs).norm() / theirs.norm()
    return Deviation(float(error), float(agreement), len(theirs))
