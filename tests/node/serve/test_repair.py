"""Repair as a hop lives it: epochs on one stream, and replays from its log."""

import asyncio

import pytest

from node.serve.hop import REOPENS_MAX
from protocol.errors import ErrorCode
from protocol.frame import ErrorFrame, Opened, Progress, Result
from protocol.tensor import WireDtype
from tests.node.serve.rig import (
    PROMPT,
    expected_tokens,
    make_rig,
    spans,
    task_names,
    wait_for,
    wait_freed,
)
from tests.node.serve.scripted_head import ScriptedHead, drawn, generate, rows

ANSWER = 12
"""Tokens of an answer."""


@pytest.mark.parametrize("wire", [None, WireDtype.FP32, WireDtype.INT8B32], ids=str)
@pytest.mark.parametrize("lost", [{0}, {1}, {2}, {3}, {1, 2}, {0, 1}, {2, 3}, {0, 1, 2, 3}])
async def test_replaced_hops_are_brought_up_and_the_answer_is_the_same(tmp_path, lost, wire):
    """On an open route, and on sealed ones."""
    async with make_rig(tmp_path, sealed=bool(wire), wire=wire or WireDtype.FP32) as rig:
        route, others = rig.providers(4), rig.providers(4)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 5)
        for index in lost:
            await rig.network.kill(route[index].peer_id, silent=False)
            head.route[index] = others[index]
        resume = rows(tokens)
        opened = await head.repair(resume, steps=5)
        assert [o.cached_tokens for o in opened] == [
            0 if index in lost else resume for index in range(4)
        ]
        assert all(o.replay_from == 0 for o in opened)
        if 0 in lost:
            await head.replay(0, (*PROMPT, *tokens[:-1]))
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
        await head.close(steps=ANSWER - 5)
        await wait_freed(*head.route)
        await wait_for(lambda: not task_names())


async def test_quick_repairs_one_after_another_leave_only_the_last(tmp_path):
    async with make_rig(tmp_path, delay_s=0.005) as rig:
        route, others = rig.providers(3), rig.providers(3)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 4)
        resume = rows(tokens)
        head.route[1] = others[1]
        for step in range(4):
            head.epoch += 1
            await head.send_opens(resume=resume, steps=4 if step == 0 else 0)
            await asyncio.sleep(0.003 * step)
        head.position = resume
        await head.repair(resume, steps=0)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
        assert not any(line.count(ErrorFrame) for line in head.lines.values())
        await head.close(steps=8)
        await wait_freed(*head.route)


async def test_a_hop_whose_log_was_dropped_says_so_and_begins_anew(tmp_path):
    async with make_rig(tmp_path) as rig:
        a, b, c = spans(3)
        route = [rig.provider(a), rig.provider(b, budget_bytes=0), rig.provider(c)]
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 4)
        resume = rows(tokens)
        await rig.network.kill(route[2].peer_id, silent=False)
        head.route[2] = rig.provider(c)
        opened = await head.repair(resume, steps=4)
        assert [o.replay_from for o in opened] == [0, resume, 0]
        opened = await head.repair(resume, steps=0, changes={1: {"forget": True}})
        assert [o.cached_tokens for o in opened] == [resume, 0, 0]
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


async def test_recovery_walks_back_to_the_head(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(3, budget_bytes=0)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 4)
        resume = rows(tokens)
        await rig.network.kill(route[2].peer_id, silent=False)
        head.route[2] = rig.provider(spans(3)[2])
        forget = {"forget": True}
        opened = await head.repair(resume, steps=4, changes={0: forget, 1: forget})
        assert [(o.cached_tokens, o.replay_from) for o in opened] == [(0, 0)] * 3
        await head.replay(0, PROMPT)
        await head.replay(len(PROMPT), tokens[:-1])
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


async def test_rows_beyond_those_that_arrived_are_forgotten(tmp_path):
    """Steps that were under way when a hop died are run again, and only once count."""
    async with make_rig(tmp_path) as rig:
        route, others = rig.providers(3), rig.providers(3)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        resume = rows(tokens)
        wrong = [(token + 1) % 90 for token in (*tokens, 5)]
        await head.step(wrong, wanted=4)
        await head.result(4)
        head.route[1] = others[1]
        opened = await head.repair(resume, steps=3)
        assert [o.cached_tokens for o in opened] == [resume, 0, resume]
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


async def test_a_long_replay_goes_in_chunks_through_two_replaced_hops(tmp_path):
    prompt = tuple(n % 90 for n in range(300))
    async with make_rig(tmp_path, delay_s=0.001) as rig:
        route, others = rig.providers(4), rig.providers(4)
        head = ScriptedHead(rig, route)
        await head.open()
        await head.step(prompt[:200], wanted=0)
        await head.result(1)
        tokens = [await head.decode(prompt[200:])]
        resume = len(prompt)
        for index in (1, 2):
            await rig.network.kill(route[index].peer_id, silent=False)
            head.route[index] = others[index]
        await head.repair(resume, steps=2)
        while len(tokens) < 6:
            tokens.append(await head.decode(tokens[-1:]))
        assert tokens == expected_tokens(tmp_path, prompt, 6)
        assert others[1].statistics.rows == others[2].statistics.rows == resume + 5
        assert others[1].statistics.steps < 12


async def test_probes_are_answered_whatever_the_engine_does(tmp_path):
    async with make_rig(tmp_path) as rig:
        a, b = spans(2)
        route = [rig.provider(a, step_delay_s=0.5), rig.provider(b)]
        head = ScriptedHead(rig, route)
        await head.open()
        await head.step(PROMPT)
        await wait_for(lambda: route[0].server._drivers)
        await asyncio.sleep(0.05)
        async with asyncio.timeout(0.3):
            progress = await head.probe(route[0])
        assert (progress.epoch, progress.rows_in, progress.rows_out) == (0, len(PROMPT), 0)
        await head.result(1)
        for provider in route:
            progress = await head.probe(provider, 8)
            assert (progress.rows_in, progress.rows_out) == (len(PROMPT), len(PROMPT))
        await head.truncate(10)
        assert (await head.probe(route[0])).rows_in == 10


async def test_an_old_epoch_s_steps_reach_nobody(tmp_path):
    async with make_rig(tmp_path) as rig:
        a, b = spans(2)
        route = [rig.provider(a, step_delay_s=0.1), rig.provider(b)]
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 1)
        for token in (1, 2, 3):
            await head.step([token])
        await asyncio.sleep(0.02)
        await head.repair(rows(tokens), steps=1)
        await generate(head, tokens, 4)
        assert tokens == expected_tokens(tmp_path, PROMPT, 4)
        assert [r.epoch for r in head.lines[route[1]].frames[Result]] == [0, 1, 1, 1]


async def test_an_open_of_the_same_epoch_ends_the_session(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(2)
        head = ScriptedHead(rig, route)
        await head.open()
        await head.lines[route[0]].send(head.frame(0))
        assert (await head.error(route[0])).code is ErrorCode.MALFORMED
        await head.lines[route[0]].wait_over()
        await wait_freed(route[0])


async def test_a_session_is_opened_so_often_and_not_more(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(1)
        head = ScriptedHead(rig, route)
        await head.open()
        await head.decode(PROMPT)
        for _ in range(REOPENS_MAX):
            await head.repair(len(PROMPT), steps=0)
        head.epoch += 1
        await head.send_opens(resume=len(PROMPT))
        assert (await head.error(route[0])).code is ErrorCode.MALFORMED
        await wait_freed(route[0])


async def test_the_same_peer_may_serve_a_new_route_while_its_old_session_closes(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(2)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        old = dict(head.lines)
        head.lines.clear()
        head.epoch, head.position = 1, rows(tokens)
        opened = await head.open(resume=rows(tokens))
        assert [o.cached_tokens for o in opened] == [0, 0]
        assert all(provider.server.sessions == 2 for provider in route)
        await head.replay(0, (*PROMPT, *tokens[:-1]))
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
        for line in old.values():
            line.stream.finish()
        await wait_for(lambda: all(provider.server.sessions == 1 for provider in route))
        await head.close(steps=9)
        await wait_freed(*route)


async def test_a_replacement_may_be_opened_again_before_its_links_stand(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, others = rig.providers(3), rig.providers(3)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        head.route[1:] = others[1:]
        head.epoch += 1
        # the last one is not told of this epoch: the one before it waits for its link
        line = await head.line(others[1])
        await line.send(head.frame(1, resume=rows(tokens)))
        await head.lines[route[0]].send(head.frame(0, resume=rows(tokens), steps=3))
        await asyncio.sleep(0.05)
        await head.repair(rows(tokens), steps=0)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
        assert len(head.lines[others[1]].frames[Opened]) == 1
        assert not head.lines[others[1]].frames[Progress]
        assert drawn(await head.result(1)) == tokens[3]


async def test_a_truncate_may_follow_a_repair_at_once(tmp_path):
    """The head takes a rejected draft back that a hop's death overtook."""
    async with make_rig(tmp_path) as rig:
        head = ScriptedHead(rig, rig.providers(2))
        await head.open()
        await head.decode(PROMPT)
        await head.repair(len(PROMPT), steps=1)
        await head.truncate(10)
        await head.step(PROMPT[10:])
        assert (await head.result(2)).position == 10
