"""The short loop of an open route: the last hop feeds what it samples straight to hop 0."""

import asyncio

import pytest

from protocol.errors import ErrorCode
from protocol.frame import ErrorFrame, Result
from tests.node.serve.rig import (
    CAPACITY,
    PROMPT,
    expected_tokens,
    make_rig,
    task_names,
    wait_for,
    wait_freed,
)
from tests.node.serve.scripted_head import ScriptedHead, drawn


async def loop(head: ScriptedHead, tokens, count: int, *, asked: int) -> list[Result]:
    """One step that may be fed on `asked` times, and its results; `count` are waited for."""
    seen = head.lines[head.route[-1]].count(Result)
    await head.step(tokens, loop=asked)
    results = [await head.result(seen + n + 1) for n in range(count)]
    head.position += count - 1
    return results


@pytest.mark.parametrize("hop_count", [1, 2, 4])
async def test_tokens_come_without_the_head(tmp_path, hop_count):
    async with make_rig(tmp_path) as rig:
        head = ScriptedHead(rig, rig.providers(hop_count), loop=True)
        await head.open()
        results = await loop(head, PROMPT, 9, asked=8)
        tokens = [drawn(result) for result in results]
        assert [result.loop for result in results] == [1] * 8 + [0]
        results = await loop(head, tokens[-1:], 4, asked=3)
        tokens += [drawn(result) for result in results]
        tokens.append(await head.decode(tokens[-1:]))
        assert tokens == expected_tokens(tmp_path, PROMPT, 14)
        await head.close(steps=14)
        await wait_freed(*head.route)
        await wait_for(lambda: not task_names())


async def test_a_stop_token_ends_it(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(2)
        answer = expected_tokens(tmp_path, PROMPT, 12)
        stop = next(n for n in range(2, 12) if answer[n] not in answer[:n])
        head = ScriptedHead(rig, route, loop=True, eos=[answer[stop]])
        await head.open()
        results = await loop(head, PROMPT, stop + 1, asked=100)
        assert [result.loop for result in results] == [1] * stop + [0]
        assert [drawn(result) for result in results] == answer[: stop + 1]
        assert (await head.probe(route[0])).rows_in == len(PROMPT) + stop
        # the head may go on all the same
        assert await head.decode([answer[stop]]) == answer[stop + 1]


async def test_the_capacity_ends_it(tmp_path):
    prompt = tuple(n % 90 for n in range(CAPACITY - 4))
    async with make_rig(tmp_path) as rig:
        head = ScriptedHead(rig, rig.providers(2), loop=True)
        await head.open()
        await head.step(prompt[:500], wanted=0)
        await head.result(1)
        results = await loop(head, prompt[500:], 5, asked=100)
        assert [result.loop for result in results] == [1, 1, 1, 1, 0]
        assert (await head.probe(head.route[0])).rows_in == CAPACITY


async def test_a_route_without_a_loop_feeds_nothing(tmp_path):
    async with make_rig(tmp_path) as rig:
        head = ScriptedHead(rig, rig.providers(2))
        await head.open()
        (result,) = await loop(head, PROMPT, 1, asked=8)
        assert result.loop == 0


async def test_the_hop_that_loses_the_loop_names_its_other_end(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, others = rig.providers(3), rig.providers(3)
        head = ScriptedHead(rig, route, loop=True)
        await head.open()
        tokens = [drawn(result) for result in await loop(head, PROMPT, 4, asked=3)]
        await rig.network.kill(route[0].peer_id, silent=False)
        for index in (1, 2):
            error = await head.error(route[index])
            assert (error.code, error.about) == (ErrorCode.PEER_GONE, route[0].peer_id)
        head.route[0] = others[0]
        await head.repair(len(PROMPT) + 3, steps=4)
        await head.replay(0, (*PROMPT, *tokens[:-1]))
        tokens += [drawn(result) for result in await loop(head, tokens[-1:], 6, asked=5)]
        assert tokens == expected_tokens(tmp_path, PROMPT, 10)


async def test_a_neighbour_lost_on_two_links_is_named_once(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(2)
        head = ScriptedHead(rig, route, loop=True)
        await head.open()
        await loop(head, PROMPT, 3, asked=2)
        await rig.network.kill(route[1].peer_id, silent=False)
        assert (await head.error(route[0])).about == route[1].peer_id
        await asyncio.sleep(0.05)
        assert head.lines[route[0]].count(ErrorFrame) == 1


async def test_a_loop_is_cut_by_a_repair(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(2, step_delay_s=0.005)
        head = ScriptedHead(rig, route, loop=True)
        await head.open()
        results = await loop(head, PROMPT, 3, asked=200)
        head.epoch, head.position = 1, len(PROMPT) + 2
        await head.send_opens(resume=len(PROMPT) + 2, steps=3)
        await head.wait_opened()
        seen = head.lines[route[1]].count(Result)
        await asyncio.sleep(0.05)
        assert head.lines[route[1]].count(Result) == seen
        tokens = [drawn(result) for result in results]
        tokens.append(await head.decode(tokens[-1:]))
        assert tokens == expected_tokens(tmp_path, PROMPT, 4)


@pytest.mark.parametrize("hop_count", [1, 3])
async def test_close_cuts_a_loop(tmp_path, hop_count):
    async with make_rig(tmp_path) as rig:
        head = ScriptedHead(rig, rig.providers(hop_count, step_delay_s=0.002), loop=True)
        await head.open()
        await loop(head, PROMPT, 5, asked=250)
        await head.close(steps=5)
        async with asyncio.timeout(1):
            await wait_freed(*head.route)
