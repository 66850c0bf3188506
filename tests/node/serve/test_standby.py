"""Standbys: fed beside the route, never waited for, and promoted with the rows they have."""

import asyncio

import numpy as np

from protocol.frame import ErrorFrame, LinkRole, Opened
from tests.node.serve.rig import (
    PROMPT,
    Provider,
    expected_tokens,
    make_rig,
    spans,
    task_names,
    wait_for,
    wait_freed,
)
from tests.node.serve.scripted_head import ScriptedHead, generate, rows

ANSWER = 12


def mirrors(standby: Provider) -> dict:
    """What the OPEN of the hop before says."""
    return {"mirror": standby.peer_id, "mirror_addresses": standby.addresses}


async def open_standby(head: ScriptedHead, standby: Provider, index: int, **change) -> Opened:
    line = await head.line(standby)
    seen = line.count(Opened)
    await line.send(head.frame(index, standby=True, span=standby.span, **change))
    return await line.wait(Opened, seen + 1)


async def has_rows(head: ScriptedHead, standby: Provider, count: int) -> None:
    async with asyncio.timeout(3):
        while (await head.probe(standby)).rows_out != count:
            await asyncio.sleep(0.01)


async def test_a_standby_takes_over_with_a_few_rows_missing(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, standby = rig.providers(3), rig.provider(spans(3)[1])
        head, tokens = ScriptedHead(rig, route), []
        await open_standby(head, standby, 1)
        await head.open(changes={0: mirrors(standby)})
        await generate(head, tokens, 5)
        await has_rows(head, standby, rows(tokens))
        await rig.network.kill(route[1].peer_id, silent=False)
        head.route[1] = standby
        ran = standby.statistics.rows
        opened = await head.repair(rows(tokens), steps=5)
        assert [o.cached_tokens for o in opened] == [rows(tokens)] * 3
        await generate(head, tokens, ANSWER)
        assert standby.statistics.rows - ran == ANSWER - 5
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
        await head.close(steps=7)
        await wait_freed(*head.route)
        await wait_for(lambda: not task_names())


async def test_a_standby_that_comes_late_is_brought_up_in_large_steps(tmp_path):
    prompt = tuple(n % 90 for n in range(300))
    async with make_rig(tmp_path) as rig:
        route = rig.providers(2)
        standby = rig.provider(spans(2)[1])
        head = ScriptedHead(rig, route)
        await head.open(changes={0: mirrors(standby)})
        await head.step(prompt, wanted=1)
        await head.result(1)
        for n in range(20):
            await head.decode([n])
        await open_standby(head, standby, 1)
        await has_rows(head, standby, 320)
        assert standby.statistics.steps <= 4


async def test_rows_that_are_taken_back_are_taken_from_the_standby_too(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, standby = rig.providers(3), rig.provider(spans(3)[1])
        head, tokens = ScriptedHead(rig, route), []
        await open_standby(head, standby, 1)
        await head.open(changes={0: mirrors(standby)})
        await generate(head, tokens, 3)
        results = 3
        for _ in range(5):
            await head.step([1, 2, 3, 4], wanted=4)
            results += 1
            await head.result(results)
            await head.truncate(rows(tokens))
            tokens.append(await head.decode(tokens[-1:]))
            results += 1
        await has_rows(head, standby, rows(tokens))
        await rig.network.kill(route[1].peer_id, silent=False)
        head.route[1] = standby
        opened = await head.repair(rows(tokens), steps=results)
        assert opened[1].cached_tokens == rows(tokens)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


async def test_hop_0_s_standby_is_fed_by_the_head(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, standby = rig.providers(2), rig.provider(spans(2)[0])
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await open_standby(head, standby, 0)
        await generate(head, tokens, 4)
        feeder = ScriptedHead(rig, [standby])
        feeder.session_id, feeder.lines = head.session_id, head.lines
        feeder.links[0] = await head.attach(standby, LinkRole.MIRROR)
        await feeder.replay(0, PROMPT)
        await feeder.replay(len(PROMPT), (1, 2, 3))
        await feeder.truncate(len(PROMPT))
        await feeder.replay(len(PROMPT), tokens[:-1])
        await has_rows(head, standby, rows(tokens))
        await rig.network.kill(route[0].peer_id, silent=False)
        head.route[0] = standby
        opened = await head.repair(rows(tokens), steps=4)
        assert opened[0].cached_tokens == rows(tokens)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


async def test_a_standby_of_the_last_hop_draws_the_same(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, standby = rig.providers(2), rig.provider(spans(2)[1])
        head, tokens = ScriptedHead(rig, route), []
        await open_standby(head, standby, 1)
        await head.open(changes={0: mirrors(standby)})
        await generate(head, tokens, 4)
        await has_rows(head, standby, rows(tokens))
        head.route[1] = standby
        opened = await head.repair(rows(tokens), steps=4)
        assert opened[1].cached_tokens == rows(tokens)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


async def test_a_standby_that_must_know_what_was_drawn_begins_anew(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, standby = rig.providers(2), rig.provider(spans(2)[1])
        head, tokens = ScriptedHead(rig, route), []
        await open_standby(head, standby, 1)
        await head.open(changes={0: mirrors(standby)})
        await generate(head, tokens, 4)
        await has_rows(head, standby, rows(tokens))
        head.route[1] = standby
        drawn = {"drawn": np.asarray(tokens, "<i4").tobytes()}
        opened = await head.repair(rows(tokens), steps=4, changes={1: drawn})
        assert opened[1].cached_tokens == 0
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


async def test_a_standby_stays_one_over_repairs_of_others(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, others = rig.providers(3), rig.providers(3)
        standby = rig.provider(spans(3)[1])
        head, tokens = ScriptedHead(rig, route), []
        await open_standby(head, standby, 1)
        await head.open(changes={0: mirrors(standby)})
        await generate(head, tokens, 4)
        await has_rows(head, standby, rows(tokens))
        await rig.network.kill(route[2].peer_id, silent=False)
        head.route[2] = others[2]
        resume = rows(tokens)
        await head.repair(resume, steps=4, changes={0: mirrors(standby)})
        opened = await open_standby(head, standby, 1, resume=resume, steps=0)
        assert opened.cached_tokens == resume
        await generate(head, tokens, 8)
        await has_rows(head, standby, rows(tokens))
        await rig.network.kill(route[1].peer_id, silent=False)
        head.route[1] = standby
        opened = await head.repair(rows(tokens), steps=4)
        assert opened[1].cached_tokens == rows(tokens)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


async def test_a_slow_standby_makes_nobody_wait(tmp_path):
    prompt = tuple(n % 90 for n in range(400))
    async with make_rig(tmp_path) as rig:
        route, standby = rig.providers(2), rig.provider(spans(2)[1], step_delay_s=1.0)
        head = ScriptedHead(rig, route)
        await open_standby(head, standby, 1)
        await head.open(changes={0: mirrors(standby)})
        async with asyncio.timeout(0.9):
            await head.step(prompt, wanted=1)
            await head.result(1)
            for n in range(50):
                await head.decode([n])
        await head.close(steps=51, whom=[*route, standby])
        await wait_freed(*route, standby)


async def test_a_standby_that_is_gone_or_never_was_is_done_without(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, standby = rig.providers(3), rig.provider(spans(3)[2])
        head, tokens = ScriptedHead(rig, route), []
        await open_standby(head, standby, 2)
        nobody = rig.provider(spans(3)[1])  # is dialled, and never opened
        await head.open(changes={0: mirrors(nobody), 1: mirrors(standby)})
        await generate(head, tokens, 4)
        await rig.network.kill(standby.peer_id, silent=False)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
        assert not any(head.lines[provider].count(ErrorFrame) for provider in route)
        await head.close(steps=ANSWER)
        await wait_freed(*route)
        await wait_for(lambda: not task_names())


async def test_a_standby_reports_no_neighbour(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, standby = rig.providers(3), rig.provider(spans(3)[1])
        head, tokens = ScriptedHead(rig, route), []
        await open_standby(head, standby, 1)
        await head.open(changes={0: mirrors(standby)})
        await generate(head, tokens, 4)
        await has_rows(head, standby, rows(tokens))
        await rig.network.kill(route[0].peer_id, silent=False)
        await head.error(route[1])
        await asyncio.sleep(0.1)
        assert not head.lines[standby].count(ErrorFrame)
        assert (await head.probe(standby)).rows_in == rows(tokens)


async def test_a_step_is_no_business_of_a_standby(tmp_path):
    async with make_rig(tmp_path) as rig:
        standby = rig.provider(spans(2)[0])
        head = ScriptedHead(rig, [standby, rig.provider(spans(2)[1])])
        await open_standby(head, standby, 0)
        head.links[0] = await head.attach(standby, LinkRole.MIRROR)
        await head.step(PROMPT)
        await asyncio.sleep(0.05)
        assert (await head.probe(standby)).rows_in == 0
        await head.close(whom=[standby])
        await wait_freed(standby)
