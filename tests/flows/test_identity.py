"""The model that talks, cut into hops, against the unsplit model in transformers: every token."""

import functools

import pytest

from node.engine.backends import available_backends, load_engine
from node.engine.store import TINY_MODEL, build_manifest, resolve_model
from node.head.drafting.kit import NO_DRAFTING
from node.head.models import HeadModel
from protocol.route import Span
from tests.flows.ring import RingModel, make_ring

QUESTION = "Explain what a span is and why a model runs in pieces."
MAX_TOKENS = 180
DIRECTORY = resolve_model(TINY_MODEL, models_directory=None)


@functools.cache
def prompt_and_reference():
    """The prompt's tokens, and what transformers says to it greedily in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DIRECTORY)
    model = AutoModelForCausalLM.from_pretrained(DIRECTORY, dtype=torch.float32)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = model.generate(ids, max_new_tokens=MAX_TOKENS, do_sample=False)
    return tuple(ids[0].tolist()), output[0, ids.shape[1] :].tolist()


def model_of(tmp_path, engines):
    manifest = build_manifest(DIRECTORY, TINY_MODEL, cache_directory=tmp_path)
    loads = tuple(functools.partial(load_engine, backend=engine) for engine in engines)
    return RingModel(DIRECTORY, manifest, loads)


def test_our_prompt_is_that_of_transformers(tmp_path):
    prompt, _ = prompt_and_reference()
    manifest = model_of(tmp_path, ()).manifest
    model = HeadModel.load(DIRECTORY, manifest, None, now_s=0)
    text = model.template.render([{"role": "user", "content": QUESTION}])
    assert tuple(model.tokenizer.encode(text)) == prompt
    assert model.drafting


def test_who_wants_no_drafting_gets_none(tmp_path):
    manifest = model_of(tmp_path, ()).manifest
    assert not HeadModel.load(DIRECTORY, manifest, None, now_s=0, drafting=NO_DRAFTING).drafting


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "open"])
@pytest.mark.parametrize("engines", [("torch",), ("torch", "mlx")], ids="-".join)
@pytest.mark.parametrize("hop_count", [1, 2, 3, 5])
async def test_every_token_is_that_of_the_unsplit_model(tmp_path, hop_count, engines, sealed):
    if not set(engines) <= set(available_backends()):
        pytest.skip("the mlx extra is not installed on this machine")
    prompt, expected = prompt_and_reference()
    async with make_ring(
        tmp_path, hop_count, paid=True, sealed=sealed, model=model_of(tmp_path, engines)
    ) as ring:
        answer = await ring.answer(
            prompt=prompt, max_tokens=MAX_TOKENS, eos=frozenset({expected[-1]})
        )
    assert answer == expected
    assert len(expected) > 100


@pytest.mark.parametrize("engine", ["torch", "mlx"])
async def test_parts_of_overlapping_spans_give_the_same_tokens(tmp_path, engine):
    if engine not in available_backends():
        pytest.skip("the mlx extra is not installed on this machine")
    prompt, expected = prompt_and_reference()
    async with make_ring(tmp_path, 0, model=model_of(tmp_path, (engine,))) as ring:
        for held, used in (
            (Span(0, 5), Span(0, 4)),
            (Span(3, 7), Span(4, 6)),
            (Span(5, 8), Span(6, 8)),
        ):
            ring.add_provider(held).span = used
        answer = await ring.answer(prompt=prompt, max_tokens=40)
    assert answer == expected[:40]
