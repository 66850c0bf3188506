"""Real processes, the stock openai client, and everything a stranger may try at the gateway."""

import asyncio
import contextlib
import functools
import json
import os
import random
import signal
import socket
import time

import httpx
import openai
import pytest

from node.cli.status import read_status
from node.market_client import MarketClient
from protocol.frame import PROTOCOL
from protocol.identity import KeyPair
from tests.flows.journeys import run_buyers_page
from transport.address import Address
from transport.errors import TransportError
from transport.quic.host import QuicHost

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = "What is a relay?"
LONG_ANSWER = "Tell me a short story about a lighthouse."


def client_of(live, key=None):
    return openai.AsyncOpenAI(
        base_url=live.pool.base_url, api_key=key or live.pool.api_key, max_retries=0
    )


async def ask(live, question=QUESTION, *, key=None, **options):
    async with client_of(live, key) as client:
        return await client.chat.completions.create(
            model=options.pop("model", live.pool.model),
            messages=[{"role": "user", "content": question}],
            **{"temperature": 0, "max_tokens": 60} | options,
        )


async def market_client(live):
    return MarketClient(live.pool.market_url, KeyPair.generate())


async def settled(live, session_id, *, key=None, timeout_s=20.0):
    async with await market_client(live) as client, asyncio.timeout(timeout_s):
        while True:
            session = await client.session(session_id, key or live.pool.api_key)
            if session["status"] in ("settled", "released"):
                return session
            await asyncio.sleep(0.1)


async def session_of(live, session_id):
    async with await market_client(live) as client:
        return await client.session(session_id, live.pool.api_key)


async def open_sequences(live) -> int:
    statuses = [await read_status(home) for home in live.pool.provider_homes]
    return sum(status["engine"]["engine"]["sequences"] for status in statuses)


async def wait_until_free(live, *, timeout_s=1.0) -> float:
    """Seconds until no hop holds KV."""
    started = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while await open_sequences(live):
            await asyncio.sleep(0.02)
    return time.monotonic() - started


@functools.cache
def unsplit_model():
    """The whole model as transformers loads it, in fp32, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from node.engine.store import resolve_model

    directory = resolve_model("piecework/tiny", models_directory=None)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(directory)


def unsplit_answer(question, max_tokens):
    """What transformers says with the whole model, greedily."""
    import torch

    model, tokenizer = unsplit_model()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = prompt["input_ids"] if hasattr(prompt, "keys") else prompt
    with torch.inference_mode():
        output = model.generate(ids, max_new_tokens=max_tokens, do_sample=False)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


async def test_a_streamed_answer_is_that_of_the_unsplit_model(live):
    async with client_of(live) as client:
        stream = await client.chat.completions.create(
            model=live.pool.model,
            messages=[{"role": "user", "content": LONG_ANSWER}],
            temperature=0, max_tokens=120, stream=True, stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == unsplit_answer(LONG_ANSWER, 120)
    assert chunks[-1].usage.completion_tokens > 20
    hops = next(
        c.model_extra["piecework"]["hops"] for c in chunks if (c.model_extra or {}).get("piecework")
    )
    assert [hop["span"] for hop in hops] == ["0:3", "3:6", "6:8"]


async def test_stream_and_whole_answer_agree_and_are_charged(live):
    answer = await ask(live)
    assert answer.choices[0].message.content == unsplit_answer(QUESTION, 60)
    session_id = answer.model_extra["piecework"]["session_id"]
    session = await settled(live, session_id)
    earned = sum(hop["earned_nanos"] for hop in session["hops"])
    assert session["charged_nanos"] == earned + session["fee_nanos"] > 0
    assert all(hop["receipt"] and hop["leaf_index"] is not None for hop in session["hops"])
    assert "WARNING" not in live.log("gateway")


async def test_what_the_providers_still_have_is_neither_run_nor_charged_again(live):
    question = "What does a relay do for two nodes behind routers? " * 12
    answers, charged = [], []
    for _ in range(2):
        answer = await ask(live, question, max_tokens=10)
        answers.append(answer)
        session = await settled(live, answer.model_extra["piecework"]["session_id"])
        charged.append(session["charged_nanos"])
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in answers]
    assert cached == [0, (answers[0].usage.prompt_tokens - 1) // 64 * 64]
    assert cached[1] >= 128
    assert answers[1].choices[0].message.content == answers[0].choices[0].message.content
    assert charged[1] < charged[0] / 2
    for home in live.pool.provider_homes:
        status = await read_status(home)
        assert status["engine"]["engine"]["reused_tokens"] >= cached[1]


async def test_many_buyers_at_once_get_the_same_answer(live):
    expected = unsplit_answer(QUESTION, 30)
    answers = await asyncio.gather(*(ask(live, max_tokens=30) for _ in range(6)))
    assert {answer.choices[0].message.content for answer in answers} == {expected}


async def test_a_seed_makes_a_drawn_answer_repeatable(live):
    drawn = [await ask(live, temperature=1.0, seed=seed, max_tokens=20) for seed in (5, 5)]
    assert drawn[0].choices[0].message.content == drawn[1].choices[0].message.content


async def test_wrong_key(live):
    with pytest.raises(openai.AuthenticationError) as caught:
        await ask(live, key="pw_live_wrongkey_" + "x" * 43)
    assert caught.value.code == "invalid_api_key"


async def test_unknown_model(live):
    with pytest.raises(openai.NotFoundError) as caught:
        await ask(live, model="nobody/nothing")
    assert caught.value.code == "model_not_found"


async def test_a_prompt_that_is_too_long(live):
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(live, "word " * 5000)
    assert caught.value.code == "context_length_exceeded"


async def test_an_empty_balance(live):
    async with await market_client(live) as client:
        key = (await client.create_account("broke"))["api_key"]
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(live, key=key)
        assert caught.value.status_code == 402
        account = await client.account(key)
    assert account["balance"]["held_nanos"] == 0


async def test_curl_sees_plain_server_sent_events(live):
    process = await asyncio.create_subprocess_exec(
        "curl", "-sN", f"{live.pool.base_url}/chat/completions",
        "-H", f"Authorization: Bearer {live.pool.api_key}", "-H", "Content-Type: application/json",
        "-d", json.dumps({
            "model": live.pool.model, "stream": True, "max_tokens": 10, "temperature": 0,
            "messages": [{"role": "user", "content": QUESTION}],
        }),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    events = [line[6:] for line in output.decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    finish = [json.loads(e)["choices"][0]["finish_reason"] for e in events[:-1]]
    assert finish[-1] in ("length", "stop")


async def test_a_client_that_leaves_frees_every_hop_within_a_second(live):
    for _ in range(3):
        await wait_until_free(live, timeout_s=10)
        async with httpx.AsyncClient() as client:
            async with client.stream(
                "POST", f"{live.pool.base_url}/chat/completions",
                headers={"authorization": f"Bearer {live.pool.api_key}"},
                json={
                    "model": live.pool.model, "stream": True, "max_tokens": 1500,
                    "messages": [{"role": "user", "content": LONG_ANSWER}], "seed": 1,
                    "temperature": 2.0,
                },
            ) as response:  # fmt: skip
                session_id = response.headers["x-piecework-session"]
                async for line in response.aiter_lines():
                    if '"content"' in line:
                        break
            before = await session_of(live, session_id)
            assert await wait_until_free(live) < 1
        session = await settled(live, session_id)
        assert session["status"] == "settled"
        assert 0 < session["charged_nanos"] < before["held_nanos"]


async def test_a_strangers_noise_costs_the_buyers_nothing(live):
    """Random datagrams and malformed frames at every provider, while an answer runs."""
    dice = random.Random(7)
    statuses = [await read_status(home) for home in live.pool.provider_homes]
    stranger = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    answer = asyncio.create_task(ask(live, max_tokens=40))
    try:
        for status in statuses:
            address = Address.from_text(status["addresses"][0])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
                for _ in range(500):
                    noise.sendto(
                        dice.randbytes(dice.randint(1, 1400)), (address.host, address.port)
                    )
            connection = await stranger.connect(address.peer_id, [address], timeout_s=5)
            for frame in (b"\x01", b"\x03\xa0", b"\x04" + dice.randbytes(90), dice.randbytes(5000)):
                stream = await connection.open_stream(PROTOCOL)
                await stream.send(frame)
                with pytest.raises(TransportError):
                    await asyncio.wait_for(stream.receive(), 5)
        assert (await answer).choices[0].message.content == unsplit_answer(QUESTION, 40)
    finally:
        await stranger.close()
    assert await open_sequences(live) == 0 or await wait_until_free(live, timeout_s=5) < 5


async def test_the_ledger_audits_while_it_is_used(live):
    await ask(live, max_tokens=5)
    code, output = await live.children.run(
        "piecework", "ledger", "audit", "--market", live.pool.market_url, "--json"
    )
    report = json.loads(output)
    assert code == 0
    assert report["ok"]
    assert report["settlements"] > 0
    assert report["charged_nanos"] == report["credited_nanos"] + report["fee_nanos"]


async def test_the_buyers_journey_is_a_program(live, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    await asyncio.to_thread(run_buyers_page, live.pool, tmp_path)


async def test_status_shows_the_pool(live):
    code, output = await live.children.run(
        "piecework", "status", "--home", str(live.pool.provider_homes[0]),
        "--market", live.pool.market_url, "--json",
    )  # fmt: skip
    report = json.loads(output)
    assert code == 0
    assert report["node"]["span"] == "0:3"
    assert len(report["pool"]["offers"]) == 3


async def ask_and_kill(live, pid):
    """Kill a process after the fifth piece of an answer."""
    async with client_of(live) as client:
        stream = await client.chat.completions.create(
            model=live.pool.model, messages=[{"role": "user", "content": LONG_ANSWER}],
            max_tokens=1500, temperature=2.0, seed=1, stream=True,
        )  # fmt: skip
        count = 0
        async for _ in stream:
            count += 1
            if count == 5:
                os.kill(pid, signal.SIGKILL)


async def test_a_provider_that_is_killed_in_mid_answer_is_one_clear_error(live):
    """Last of the module: after it one span is missing, and requests get a 503 with a reason."""
    await wait_until_free(live, timeout_s=10)
    victim = live.pool.provider_homes[1]
    pid = json.loads((victim / "status.json").read_text())["pid"]
    with pytest.raises(openai.APIError) as caught:
        await ask_and_kill(live, pid)
    assert "hop 1" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(openai.APIStatusError) as refused:
        await ask(live)
    assert refused.value.status_code in (502, 503)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
    async with await market_client(live) as client:
        totals = await client.totals()
    assert totals["sum_nanos"] == 0
