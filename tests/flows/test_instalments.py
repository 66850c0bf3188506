"""Real processes: an answer without max_tokens is paid for as it comes, and is the same answer."""

import asyncio
import contextlib
import os
import secrets
import signal
import sqlite3
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from node.cli.demo.pool import DemoOptions, start_pool
from node.cli.demo.processes import Children
from node.market_client import MarketClient
from protocol.identity import KeyPair
from tests.flows.conftest import LivePool
from tests.flows.test_pool import LONG_ANSWER, client_of, settled, unsplit_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

INSTALMENT = 16
"""The answer has 148 tokens: it is extended again and again."""
DECODE_RATE = 20_000_000_000
"""Dear, so that the least top-up pays for a part of the answer only: some 60 tokens."""
TOPUP_MIN_NANOS = 10**7


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory):
    """Three dear providers, and a gateway that pays in small instalments."""
    directory = Path(tmp_path_factory.mktemp("pool"))
    children = Children(directory, lambda line: sys.stderr.write(f"{line}\n"))
    options = DemoOptions(
        nodes=3, model="piecework/tiny", prompt="", engines="auto", exact=True,
        provider_options=("--decode-rate", str(DECODE_RATE)),
        gateway_options=("--instalment-tokens", str(INSTALMENT)),
    )  # fmt: skip
    try:
        yield LivePool(
            await start_pool(options, directory, children, lambda _: None), children, directory
        )
    finally:
        await children.stop()


@pytest.fixture(scope="module")
def expected():
    return unsplit_answer(LONG_ANSWER, 1024)


async def key_with(live, nanos) -> str:
    async with MarketClient(live.pool.market_url, KeyPair.generate()) as client:
        key = (await client.create_account("instalments"))["api_key"]
        topup_id = secrets.token_hex(16)
        await client.top_up(topup_id, nanos, key)
        await client.complete_test_checkout(topup_id)
        return key


async def balance_of(live, key) -> dict:
    async with MarketClient(live.pool.market_url, KeyPair.generate()) as client:
        return (await client.account(key))["balance"]


async def ask(live, key=None, **options):
    async with client_of(live, key) as client:
        return await client.chat.completions.create(
            model=live.pool.model,
            messages=[{"role": "user", "content": LONG_ANSWER}],
            **{"temperature": 0} | options,
        )


def parts_of(live, session_id) -> int:
    """How often money was held for a session."""
    path = live.directory / "market" / "marketplace.sqlite"
    books = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = (
            "select sum(parts) from ledger_hold join market_session_hold using (hold_id)"
            " where session_id = ?"
        )
        return books.execute(query, [bytes.fromhex(session_id)]).fetchone()[0]
    finally:
        books.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(live):
    """An answer to its end, and its session once it is settled."""
    answer = await ask(live)
    return answer, await settled(live, answer.model_extra["piecework"]["session_id"])


async def test_without_max_tokens_the_answer_is_that_of_the_unsplit_model(live, whole, expected):
    answer, session = whole
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 8 * INSTALMENT
    assert "stopped_by" not in answer.model_extra["piecework"]
    assert parts_of(live, session["session_id"]) >= 8
    earned = sum(hop["earned_nanos"] for hop in session["hops"])
    assert session["charged_nanos"] == earned + session["fee_nanos"] > 0


async def test_an_answer_ends_where_the_money_does(live, expected):
    key = await key_with(live, TOPUP_MIN_NANOS)
    answer = await ask(live, key)
    assert answer.choices[0].finish_reason == "length"
    assert answer.model_extra["piecework"]["stopped_by"] == "insufficient_funds"
    text = answer.choices[0].message.content
    assert expected.startswith(text)
    assert text != expected
    assert answer.usage.completion_tokens > 2 * INSTALMENT
    session = await settled(live, answer.model_extra["piecework"]["session_id"], key=key)
    earned = sum(hop["earned_nanos"] for hop in session["hops"])
    balance = await balance_of(live, key)
    assert session["charged_nanos"] == earned + session["fee_nanos"] > 0
    assert balance["held_nanos"] == 0
    assert 0 <= balance["posted_nanos"] == TOPUP_MIN_NANOS - session["charged_nanos"]
    # of the rest most was held for drafts that turned out right, or were not made
    assert balance["posted_nanos"] < TOPUP_MIN_NANOS // 2


async def test_a_marketplace_that_is_started_again_costs_an_answer_nothing(live, expected):
    """Killed when the first instalment is hardly used, and away until long after it is used up."""
    port = live.pool.market_url.rpartition(":")[2]
    async with client_of(live) as client:
        stream = await client.chat.completions.create(
            model=live.pool.model, messages=[{"role": "user", "content": LONG_ANSWER}],
            temperature=0, stream=True,
        )  # fmt: skip
        text, restarting = "", None
        async for chunk in stream:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            restarting = restarting or asyncio.create_task(restart_market(live, port))
    await restarting
    assert text == expected


async def restart_market(live, port) -> None:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # others end while we look
            if {b"--port", port.encode()} <= set(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
    (pid,) = found
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(3)
    await live.children.start(
        "market", "piecework-market", "--home", str(live.directory / "market"),
        "--port", port, "--settlement-window-s", "1",
    )  # fmt: skip


async def test_answers_at_once_share_what_there_is(live, whole, expected):
    """The price of two answers, and two at once, neither of which says how long it will be."""
    _, session = whole
    key = await key_with(live, 5 * session["charged_nanos"] // 2)
    answers = await asyncio.gather(*(ask(live, key) for _ in range(2)))
    assert [answer.choices[0].message.content for answer in answers] == [expected] * 2
    assert (await balance_of(live, key))["posted_nanos"] >= 0
