"""Real processes: an answer without max_tokens is paid for as it comes, and is the same answer."""

import asyncio
import secrets

import openai
import pytest

from node.market_client import MarketClient
from node.router.base import INSTALMENTS_TOKENS
from protocol.identity import KeyPair
from tests.flows.test_pool import LONG_ANSWER, client_of, settled, unsplit_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = 2 * INSTALMENTS_TOKENS[0] + 100
"""An answer of so many is extended twice at least."""


async def key_with(live, nanos) -> str:
    async with MarketClient(live.pool.market_url, KeyPair.generate()) as client:
        key = (await client.create_account("instalments"))["api_key"]
        topup_id = secrets.token_hex(16)
        await client.top_up(topup_id, nanos, key)
        await client.complete_test_checkout(topup_id)
        return key


async def ask(live, key=None, **options):
    async with client_of(live, key) as client:
        return await client.chat.completions.create(
            model=live.pool.model,
            messages=[{"role": "user", "content": LONG_ANSWER}],
            **{"temperature": 0} | options,
        )


async def test_an_extended_answer_is_that_of_the_unsplit_model(live):
    drawn = {"temperature": 2.0, "seed": 1}
    answer = await ask(live, max_tokens=TOKENS, **drawn)
    session = await settled(live, answer.model_extra["piecework"]["session_id"])
    assert answer.usage.completion_tokens > INSTALMENTS_TOKENS[0]
    assert session["status"] == "settled"
    assert "stopped_by" not in answer.model_extra["piecework"]
    again = await ask(live, max_tokens=INSTALMENTS_TOKENS[0], **drawn)
    text = again.choices[0].message.content
    assert answer.choices[0].message.content.startswith(text[:-8])


async def test_without_max_tokens_the_greedy_answer_is_the_same(live):
    answer = await ask(live)
    expected = unsplit_answer(LONG_ANSWER, 1024)
    assert answer.choices[0].message.content == expected
    session = await settled(live, answer.model_extra["piecework"]["session_id"])
    earned = sum(hop["earned_nanos"] for hop in session["hops"])
    assert session["charged_nanos"] == earned + session["fee_nanos"] > 0


async def test_many_answers_without_a_bound_run_on_a_balance_for_few_holds(live):
    whole = await ask(live)
    session = await settled(live, whole.model_extra["piecework"]["session_id"])
    key = await key_with(live, max(10**7, 8 * session["charged_nanos"]))
    answers = await asyncio.gather(*(ask(live, key) for _ in range(4)), return_exceptions=True)
    assert not [a for a in answers if isinstance(a, openai.APIError)], answers
    texts = {answer.choices[0].message.content for answer in answers}
    assert texts == {whole.choices[0].message.content}
