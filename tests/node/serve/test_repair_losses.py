"""Neighbours that go, heads that close or vanish amid a repair, and repairs that never come."""

import asyncio

import pytest

from protocol.errors import ErrorCode
from protocol.frame import ErrorFrame, LinkRole
from protocol.session import REPAIR_WAIT_S
from tests.node.serve.rig import (
    PROMPT,
    expected_tokens,
    make_rig,
    spans,
    task_names,
    wait_for,
    wait_freed,
)
from tests.node.serve.scripted_head import ScriptedHead, generate, rows
from transport.testing import run_virtual

ANSWER = 12
"""Tokens of an answer."""


async def test_the_loser_of_a_neighbour_says_whom_and_waits(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(3)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        await rig.network.kill(route[1].peer_id, silent=False)
        for index in (0, 2):
            error = await head.error(route[index])
            assert (error.code, error.about) == (ErrorCode.PEER_GONE, route[1].peer_id)
        progress = await head.probe(route[0])
        assert (progress.rows_in, progress.rows_out, progress.nonce) == (
            rows(tokens),
            rows(tokens),
            7,
        )
        assert route[0].statistics.sequences == 1
        assert not head.lines[route[0]].is_over
        await head.close(steps=3, whom=[route[0], route[2]])
        await wait_freed(route[0], route[2])


async def test_a_hop_that_lost_both_neighbours_names_both(tmp_path):
    async with make_rig(tmp_path) as rig:
        route, others = rig.providers(3), rig.providers(3)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 4)
        for index in (0, 2):
            await rig.network.kill(route[index].peer_id, silent=False)
            head.route[index] = others[index]
        named = {(await head.error(route[1], count)).about for count in (1, 2)}
        assert named == {route[0].peer_id, route[2].peer_id}
        await head.repair(rows(tokens), steps=4)
        await head.replay(0, (*PROMPT, *tokens[:-1]))
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


def test_a_dial_that_fails_while_reopening_names_the_next_hop(tmp_path):
    run_virtual(fail_to_dial(tmp_path))


async def fail_to_dial(tmp_path) -> None:
    async with make_rig(tmp_path) as rig:
        route, (dead, good) = rig.providers(3), [rig.provider(spans(3)[1]) for _ in range(2)]
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        await rig.network.kill(route[1].peer_id, silent=False)
        await rig.network.kill(dead.peer_id, silent=False)
        await head.error(route[0])
        head.route[1] = dead
        head.epoch += 1
        await head.lines[route[0]].send(head.frame(0, resume=rows(tokens), steps=3))
        await head.lines[route[2]].send(head.frame(2, resume=rows(tokens), steps=3))
        error = await head.error(route[0], 2, timeout_s=20)
        assert error.about == dead.peer_id
        head.route[1] = good
        await head.repair(rows(tokens), steps=0)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)


def test_a_hop_waits_for_a_repair_so_long_and_no_longer(tmp_path):
    run_virtual(wait_in_vain(tmp_path))


async def wait_in_vain(tmp_path) -> None:
    async with make_rig(tmp_path) as rig:
        route = rig.providers(2)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        await rig.network.kill(route[1].peer_id, silent=False)
        await head.error(route[0])
        await asyncio.sleep(REPAIR_WAIT_S - 2)
        assert (await head.probe(route[0])).rows_in == rows(tokens)
        await asyncio.sleep(3)
        assert (await head.error(route[0], 2)).about == route[1].peer_id
        await head.lines[route[0]].wait_over()
        await wait_freed(route[0])


def test_a_neighbour_that_ends_its_link_has_a_moment(tmp_path):
    run_virtual(end_a_link(tmp_path))


async def end_a_link(tmp_path) -> None:
    """A hop that is opened again a moment earlier lets go of its old links: no loss."""
    async with make_rig(tmp_path) as rig:
        route = rig.providers(3)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        head.epoch += 1
        for index in (1, 2, 0):
            frame = head.frame(index, resume=rows(tokens), steps=3)
            await head.lines[route[index]].send(frame)
            await asyncio.sleep(0.4)
        await head.attach(route[0], LinkRole.STEPS)
        await head.wait_opened()
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
        assert not any(line.count(ErrorFrame) for line in head.lines.values())


async def test_close_frees_all_amid_a_replay(tmp_path):
    prompt = tuple(n % 90 for n in range(400))
    async with make_rig(tmp_path) as rig:
        route = rig.providers(3)
        slow = [rig.provider(span, step_delay_s=0.3) for span in spans(3)]
        head = ScriptedHead(rig, route)
        await head.open()
        await head.step(prompt, wanted=1)
        await head.result(1)
        head.route[1] = slow[1]
        await head.repair(len(prompt), steps=1)
        await wait_for(lambda: slow[1].statistics.sequences)
        await head.close(whom=[*head.route, route[1]])
        async with asyncio.timeout(1):
            await wait_freed(*head.route, route[1])
        await wait_for(lambda: not task_names())


@pytest.mark.parametrize("moment", ["broken", "reopening"])
async def test_close_frees_all_while_links_are_missing(tmp_path, moment):
    async with make_rig(tmp_path) as rig:
        route, others = rig.providers(3), rig.providers(3)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        await rig.network.kill(route[1].peer_id, silent=False)
        await head.error(route[0])
        if moment == "reopening":
            head.route[1] = others[1]
            head.epoch += 1
            # the one in the middle is never told, so the links cannot stand
            for index in (0, 2):
                await head.lines[route[index]].send(head.frame(index, resume=10, steps=3))
            await asyncio.sleep(0.05)
            progress = await head.probe(route[0])
            assert (progress.epoch, progress.rows_in, progress.rows_out) == (1, 10, 10)
        await head.close(steps=0, whom=[route[0], route[2]])
        async with asyncio.timeout(1):
            await wait_freed(route[0], route[2])
        await wait_for(lambda: not task_names())


async def test_a_vanished_head_frees_a_broken_hop(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(2)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        await rig.network.kill(route[1].peer_id, silent=False)
        await head.error(route[0])
        await rig.network.kill(rig.head_host.peer_id, silent=False)
        await wait_freed(route[0])


async def test_a_dead_engine_ends_the_session_here_and_names_nobody_else(tmp_path):
    async with make_rig(tmp_path) as rig:
        route = rig.providers(3)
        head, tokens = ScriptedHead(rig, route), []
        await head.open()
        await generate(head, tokens, 3)
        route[1].engine.die()
        error = await head.error(route[1])
        assert (error.code, error.about) == (ErrorCode.ENGINE_FAILED, None)
        await head.lines[route[1]].wait_over()
        head.route[1] = rig.provider(spans(3)[1])
        await head.repair(rows(tokens), steps=3)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
