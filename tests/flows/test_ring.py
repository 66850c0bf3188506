"""Sessions round the ring: generate, pay, cancel, and everything that goes wrong."""

import asyncio
import dataclasses
import time

import pytest

from node.head.generate import generate
from protocol.envelope import seal
from protocol.errors import ErrorCode, HopFailed, SessionError
from protocol.frame import PROTOCOL
from protocol.lease import Lease
from protocol.money import amount_nanos
from protocol.receipt import CosignedReceipt
from protocol.route import Span
from tests.flows.ring import PROMPT, RATES, make_ring, spans
from transport.errors import StreamReset


async def wait_for(condition, *, timeout_s=2.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def reference(tmp_path) -> list[int]:
    """What one hop alone answers."""
    async with make_ring(tmp_path, 1) as ring:
        return await ring.answer()


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("hop_count", [1, 2, 3, 5, 8])
async def test_tokens_are_the_same_however_the_model_is_cut(tmp_path, hop_count, sealed):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, hop_count, sealed=sealed) as ring:
        assert await ring.answer() == expected
    assert len(expected) == 24


async def test_a_route_may_use_a_part_of_a_span(tmp_path):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, 0, paid=True) as ring:
        for span in (Span(0, 5), Span(3, 7), Span(5, 8)):
            ring.add_provider(span)
        for provider, used in zip(
            ring.providers, (Span(0, 4), Span(4, 6), Span(6, 8)), strict=True
        ):
            provider.span = used
        assert await ring.answer() == expected


@pytest.mark.parametrize("length", [1, 255, 256, 257, 399])
async def test_long_prompts_go_round_in_chunks(tmp_path, length):
    prompt = tuple(n % 90 for n in range(length))
    async with make_ring(tmp_path, 1) as ring:
        expected = await ring.answer(prompt=prompt, max_tokens=1)
    async with make_ring(tmp_path, 3, paid=True) as ring:
        assert await ring.answer(prompt=prompt, max_tokens=1) == expected


async def test_every_hop_is_paid_for_exactly_what_it_carried(tmp_path):
    async with make_ring(tmp_path, 3, paid=True) as ring:
        await ring.answer(max_tokens=10)
        for provider in ring.providers:
            await wait_for(lambda p=provider: p.server.reports)
            report = provider.server.reports[-1]
            held = provider.collector._lanes or None
            tokens = len(PROMPT) + 9
            assert report.tokens == tokens
            assert report.outcome == "done"
            assert held is not None
            (lane,) = held.values()
            receipt = lane.receipt
            assert receipt.final
            assert receipt.tokens == tokens
            assert receipt.work.bytes_in == report.bytes_received
            assert receipt.work.bytes_out == report.bytes_sent
            assert receipt.amount_nanos == amount_nanos(receipt.work, RATES) == report.amount_nanos
            CosignedReceipt.decode(lane.cosigned).verify_provider(provider.key.peer_id)


async def test_neighbours_sign_the_same_hash_for_the_link_between_them(tmp_path):
    async with make_ring(tmp_path, 3, paid=True) as ring:
        await ring.answer(max_tokens=5)
        lanes = [next(iter(p.collector._lanes.values())).receipt for p in ring.providers]
    assert lanes[0].link_out_hash == lanes[1].link_in_hash
    assert lanes[1].link_out_hash == lanes[2].link_in_hash


async def test_many_sessions_share_one_route(tmp_path):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, 3, paid=True) as ring:
        answers = await asyncio.gather(*(ring.answer() for _ in range(12)))
    assert answers == [expected] * 12


async def test_delay_and_loss_change_nothing(tmp_path):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, 3, paid=True, delay_s=0.002, loss=0.05, seed=3) as ring:
        assert await ring.answer() == expected


async def test_cancel_frees_kv_at_every_hop_within_a_second(tmp_path):
    async with make_ring(tmp_path, 3, paid=True) as ring:
        ends = ring.ends()
        session = ring.session(ring.plan(), ends)
        await ends.open()
        await session.open()
        tokens = generate(session, ends, PROMPT, max_tokens=300, eos=frozenset())
        for _ in range(5):
            await anext(tokens)
        started = time.monotonic()
        await tokens.aclose()
        await session.close(cancelled=True)
        for provider in ring.providers:
            await wait_for(lambda p=provider: p.engine._engine.statistics().sequences == 0)
        assert time.monotonic() - started < 1
        await ends.close()
        await session.settle()
        assert await ring.answer(max_tokens=3)


async def test_cancel_in_the_middle_of_a_step_still_pays_every_hop(tmp_path):
    async with make_ring(tmp_path, 0, paid=True) as ring:
        for span in spans(3):
            ring.add_provider(span, step_delay_s=0.05)
        ends = ring.ends()
        session = ring.session(ring.plan(), ends)
        await ends.open()
        await session.open()
        tokens = generate(session, ends, PROMPT, max_tokens=300, eos=frozenset())
        for _ in range(3):
            await anext(tokens)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(tokens), 0.07)
        await session.close(cancelled=True)
        await session.settle()
        await ends.close()
        for provider in ring.providers:
            (lane,) = provider.collector._lanes.values()
            assert lane.receipt.final
            assert lane.receipt.tokens == len(PROMPT) + 2


async def test_a_vanished_head_frees_every_hop(tmp_path):
    async with make_ring(tmp_path, 3, paid=True) as ring:
        ends = ring.ends()
        session = ring.session(ring.plan(), ends)
        await ends.open()
        await session.open()
        await anext(generate(session, ends, PROMPT, max_tokens=9, eos=frozenset()))
        await ring.network.kill(ring.head_host.peer_id, silent=False)
        for provider in ring.providers:
            await wait_for(lambda p=provider: p.engine._engine.statistics().sequences == 0)
        await session.close(cancelled=True)
        await session.settle()


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_vanished_hop_is_one_named_error_and_the_others_are_paid(tmp_path, victim):
    async with make_ring(tmp_path, 3, paid=True) as ring:
        ends = ring.ends()
        session = ring.session(ring.plan(), ends)
        await ends.open()
        await session.open()
        tokens = generate(session, ends, PROMPT, max_tokens=300, eos=frozenset())
        for _ in range(6):
            await anext(tokens)
        await ring.network.kill(ring.providers[victim].key.peer_id, silent=False)
        with pytest.raises(HopFailed):
            async for _ in tokens:
                pass
        await session.close(cancelled=True)
        await session.settle()
        for provider in ring.providers:
            if provider is not ring.providers[victim]:
                await wait_for(lambda p=provider: p.engine._engine.statistics().sequences == 0)
                (lane,) = provider.collector._lanes.values()
                assert lane.receipt.tokens >= len(PROMPT)


async def refusal(ring, plan) -> HopFailed:
    session = ring.session(plan)
    with pytest.raises(HopFailed) as caught:
        await session.open()
    await session.close(cancelled=True)
    await session.settle()
    for provider in ring.providers:
        await wait_for(lambda p=provider: p.engine._engine.statistics().sequences == 0)
    return caught.value


def with_leases(ring, plan, change) -> object:
    """The plan with its leases changed and signed by the real marketplace again."""
    leases = tuple(change(lease) for lease in plan.leases)
    envelopes = tuple(seal(lease, ring.market).encode() for lease in leases)
    return dataclasses.replace(plan, leases=leases, lease_envelopes=envelopes)


def other(lease: Lease, **change) -> Lease:
    return dataclasses.replace(lease, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"session_id": b"x" * 16},
        {"manifest_hash": b"x" * 32},
        {"hidden_size": 99},
        {"tokens_max": 10},
        {"head": None},
        {"provider": None},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_lease_for_something_else_is_refused(tmp_path, change):
    async with make_ring(tmp_path, 3, paid=True) as ring:
        change = {k: ring.market.peer_id if v is None else v for k, v in change.items()}
        plan = with_leases(ring, ring.plan(), lambda lease: other(lease, **change))
        error = await refusal(ring, plan)
        assert error.code is ErrorCode.NOT_ADMITTED
        assert await ring.answer(max_tokens=2)


async def test_an_expired_lease_is_refused(tmp_path):
    async with make_ring(tmp_path, 2, paid=True) as ring:
        error = await refusal(ring, ring.plan(now_s=time.time() - 100))
        assert error.code is ErrorCode.NOT_ADMITTED
        assert "expired" in error.message


async def test_a_lease_of_a_foreign_marketplace_is_refused(tmp_path):
    async with make_ring(tmp_path, 2, paid=True) as ring:
        plan = ring.plan()
        forged = tuple(seal(lease, plan.payer_key).encode() for lease in plan.leases)
        error = await refusal(ring, dataclasses.replace(plan, lease_envelopes=forged))
        assert error.code is ErrorCode.NOT_ADMITTED


async def test_a_lease_opens_one_session_only(tmp_path):
    async with make_ring(tmp_path, 1, paid=True) as ring:
        plan = ring.plan()
        first = ring.session(plan)
        await first.open()
        await first.close(cancelled=True)
        await first.settle()
        error = await refusal(ring, plan)
        assert "used" in error.message


async def test_a_private_node_serves_only_its_own_head(tmp_path):
    async with make_ring(tmp_path, 1) as ring:
        ring.head_host = ring.network.host()
        error = await refusal(ring, ring.plan())
        assert error.code is ErrorCode.NOT_ADMITTED


async def test_more_kv_than_there_is_is_refused_and_nothing_is_left(tmp_path):
    async with make_ring(tmp_path, 2) as ring:
        session = ring.session(ring.plan(), capacity_tokens=2000)
        others = [ring.session(ring.plan(), capacity_tokens=2000) for _ in range(4)]
        opened = await asyncio.gather(
            *(s.open() for s in [session, *others]), return_exceptions=True
        )
        failed = [error for error in opened if isinstance(error, HopFailed)]
        assert failed
        assert all(error.code is ErrorCode.NO_CAPACITY for error in failed)
        for each in [session, *others]:
            await each.close(cancelled=True)
            await each.settle()
        for provider in ring.providers:
            await wait_for(lambda p=provider: p.engine._engine.statistics().sequences == 0)


async def test_a_dead_engine_is_one_named_error(tmp_path):
    async with make_ring(tmp_path, 3) as ring:
        ends = ring.ends()
        session = ring.session(ring.plan(), ends)
        await ends.open()
        await session.open()
        tokens = generate(session, ends, PROMPT, max_tokens=300, eos=frozenset())
        await anext(tokens)
        ring.providers[1].engine.die()
        with pytest.raises(SessionError) as caught:
            async for _ in tokens:
                pass
        assert caught.value.code is ErrorCode.ENGINE_FAILED
        await session.close(cancelled=True)
        await session.settle()
        await ends.close()


@pytest.mark.parametrize("data", [b"", b"\x01garbage", b"\x04" + bytes(200), b"\x03\xa0", b"\x7f"])
async def test_a_stranger_s_first_frame_costs_nothing(tmp_path, data):
    async with make_ring(tmp_path, 1) as ring:
        stranger = ring.network.host()
        provider = ring.providers[0]
        connection = await stranger.connect(
            provider.key.peer_id, provider.host.addresses, timeout_s=1
        )
        stream = await connection.open_stream(PROTOCOL)
        await stream.send(data)
        with pytest.raises(StreamReset):
            await stream.receive()
        assert await ring.answer(max_tokens=2)
        await stranger.close()


async def test_drain_refuses_new_sessions_and_lets_the_old_end(tmp_path):
    async with make_ring(tmp_path, 2) as ring:
        ends = ring.ends()
        session = ring.session(ring.plan(), ends)
        await ends.open()
        await session.open()
        drains = [asyncio.create_task(p.server.drain(timeout_s=5)) for p in ring.providers]
        await asyncio.sleep(0.05)
        refused = ring.session(ring.plan())
        with pytest.raises(HopFailed) as caught:
            await refused.open()
        assert caught.value.code is ErrorCode.SHUTTING_DOWN
        await refused.close(cancelled=True)
        await refused.settle()
        tokens = [t async for t in generate(session, ends, PROMPT, max_tokens=4, eos=frozenset())]
        assert len(tokens) == 4
        await session.close(cancelled=False)
        await session.settle()
        await ends.close()
        await asyncio.gather(*drains)
