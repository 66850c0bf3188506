"""A head over the model that talks, in fp32: quicker the second time, the same word for word."""

import functools

import pytest

from node.engine.backends import load_engine
from node.engine.store import TINY_MODEL, build_manifest, resolve_model
from node.head.answer import AnswerRequest
from node.head.models import HeadModel
from node.head.service import HeadService
from protocol.tensor import WireDtype
from tests.flows.ring import GREEDY, RingModel, make_ring
from tests.flows.ring_router import RingRouter

DIRECTORY = resolve_model(TINY_MODEL, models_directory=None)
QUESTION = {
    "role": "user",
    "content": "Explain what a span is, what a hop is, and why a model runs in pieces. " * 9,
}
MORE = {"role": "user", "content": "Go on."}


async def say(service, messages, api_key="a key"):
    """The text, the prompt's length, and how much of it the hops had."""
    request = AnswerRequest(TINY_MODEL, messages, GREEDY, max_tokens=20, api_key=api_key)
    answer = await service.answer(request)
    text = "".join([delta.text async for delta in answer])
    await answer.aclose()
    return text, answer.prompt_tokens, answer.cached_tokens


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "open"])
async def test_a_chat_goes_on_where_it_was_and_says_the_same(tmp_path, sealed):
    manifest = build_manifest(DIRECTORY, TINY_MODEL, cache_directory=tmp_path)
    loads = (functools.partial(load_engine, backend="torch"),)
    model = RingModel(DIRECTORY, manifest, loads)
    async with make_ring(tmp_path, 2, sealed=sealed, model=model) as ring:
        head_model = HeadModel.load(DIRECTORY, manifest, ring.ends_runner, now_s=0)
        make = functools.partial(
            HeadService, ring.head_host, RingRouter(ring), [head_model],
            wire_dtype=WireDtype.FP32, sealed=sealed,
        )  # fmt: skip
        forgetful, service = make(reuses_prefixes=False), make()
        text, length, cached = await say(forgetful, [QUESTION])
        assert cached == 0
        turn = [QUESTION, {"role": "assistant", "content": text}, MORE]
        expected, _, _ = await say(forgetful, turn)

        assert await say(service, [QUESTION]) == (text, length, 0)
        assert await say(service, [QUESTION]) == (text, length, (length - 1) // 64 * 64)
        continued, _, cached = await say(service, turn)
        assert continued == expected
        assert cached > (length - 1) // 64 * 64
        assert await say(service, [QUESTION], "another key") == (text, length, 0)
        await service.close()
        await forgetful.close()
