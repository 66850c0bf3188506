"""Nothing sent twice: what hops still have of an earlier session is neither sent nor run."""

import asyncio
import contextlib
import dataclasses

import pytest

from node.engine.fake import FakeEngine, load
from node.head.generate import generate
from node.head.prefix import PrefixSecret
from protocol.errors import ErrorCode, HopFailed, SessionError
from protocol.route import Span
from tests.flows.ring import HIDDEN, VOCABULARY, fake_model, make_ring, spans

PROMPT = tuple((11 * n * n + 3 * n + 1) % VOCABULARY for n in range(200))
BLOCKS_TOKENS = 192
"""Of PROMPT, in whole blocks."""
MAX_TOKENS = 9


async def wait_for(condition, *, timeout_s=2.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def opened(ring, prompt=PROMPT, tenant="alice", **options):
    """A session under way and its ends; closed as cancelled, and forgotten by every hop."""
    plan = ring.plan()
    ends = ring.ends()
    session = ring.session(plan, ends, prefix=ring.prefix(plan, prompt, tenant), **options)
    try:
        await ends.open()
        await session.open()
        yield session, ends
    finally:
        await session.close(cancelled=True)
        await ends.close()
        await session.settle()
        await wait_for(lambda: all(is_idle(provider) for provider in ring.providers))


def is_idle(provider) -> bool:
    sequences = provider.engine._engine.statistics().sequences
    return sequences == 0 and provider.server.sessions == 0


async def ask(ring, prompt=PROMPT, tenant="alice", max_tokens=MAX_TOKENS):
    """The answer, and how many rows of the prompt the hops had."""
    async with opened(ring, prompt, tenant) as (session, ends):
        tokens = generate(session, ends, prompt, max_tokens=max_tokens, eos=frozenset())
        return [token async for token in tokens], session.cached_tokens


async def fresh(tmp_path, prompt=PROMPT, *, sealed=True, max_tokens=MAX_TOKENS) -> list[int]:
    """What a ring answers that never saw anything."""
    async with make_ring(tmp_path, 1, sealed=sealed) as ring:
        return await ring.answer(prompt=prompt, max_tokens=max_tokens)


def rows_run(ring) -> list[int]:
    """By each hop in its last session, counted where its steps are counted."""
    return [provider.server.reports[-1].tokens for provider in ring.providers]


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "open"])
@pytest.mark.parametrize("hop_count", [1, 3])
async def test_the_second_time_only_the_tail_goes_round(tmp_path, hop_count, sealed):
    expected = await fresh(tmp_path, sealed=sealed)
    async with make_ring(tmp_path, hop_count, sealed=sealed) as ring:
        assert await ask(ring) == (expected, 0)
        assert rows_run(ring) == [len(PROMPT) + MAX_TOKENS - 1] * hop_count
        assert await ask(ring) == (expected, BLOCKS_TOKENS)
        tail = len(PROMPT) + MAX_TOKENS - 1 - BLOCKS_TOKENS
        assert rows_run(ring) == [tail] * hop_count
        row_bytes = [4 if index == 0 and not sealed else 4 * HIDDEN for index in range(hop_count)]
        received = [provider.server.reports[-1].bytes_received for provider in ring.providers]
        assert received == [tail * size for size in row_bytes]
        for provider in ring.providers:
            assert provider.engine._engine.statistics().reused_tokens == BLOCKS_TOKENS


async def test_the_next_turn_of_a_chat_finds_prompt_and_answer(tmp_path):
    async with make_ring(tmp_path, 3) as ring:
        answer, _ = await ask(ring, max_tokens=80)
        turn = (*PROMPT, *answer, 5, 6, 7)
        expected = await fresh(tmp_path, turn)
        assert await ask(ring, turn) == (expected, 256)


async def test_a_prompt_that_parts_in_the_middle_shares_what_is_before(tmp_path):
    other = (*PROMPT[:100], 1, *PROMPT[101:])
    expected = await fresh(tmp_path, other)
    async with make_ring(tmp_path, 3) as ring:
        await ask(ring)
        assert await ask(ring, other) == (expected, 64)


@pytest.mark.parametrize("length", [64, 65, 128, 129])
async def test_the_last_row_of_a_prompt_is_always_sent(tmp_path, length):
    prompt = PROMPT[:length]
    expected = await fresh(tmp_path, prompt)
    async with make_ring(tmp_path, 2) as ring:
        await ask(ring, prompt)
        assert await ask(ring, prompt) == (expected, (length - 1) // 64 * 64)


async def test_many_sessions_of_one_tenant_share_what_is_there(tmp_path):
    prompts = [(*PROMPT[:130], n, *PROMPT[:20]) for n in range(8)]
    expected = [await fresh(tmp_path, prompt) for prompt in prompts]
    async with make_ring(tmp_path, 3, paid=True) as ring:
        await ask(ring, PROMPT[:130])
        answers = await asyncio.gather(*(ask(ring, prompt) for prompt in prompts))
    assert answers == [(tokens, 128) for tokens in expected]


class TestWhoShares:
    async def test_another_tenant_finds_nothing(self, tmp_path):
        async with make_ring(tmp_path, 2) as ring:
            expected, _ = await ask(ring, tenant="alice")
            assert await ask(ring, tenant="bob") == (expected, 0)
            assert await ask(ring, tenant="") == (expected, 0)
            assert await ask(ring, tenant="alice") == (expected, BLOCKS_TOKENS)

    async def test_another_head_finds_nothing_even_with_the_same_names(self, tmp_path):
        async with make_ring(tmp_path, 2, paid=True) as ring:
            expected, _ = await ask(ring)
            first, ring.head_host = ring.head_host, ring.network.host()
            assert await ask(ring) == (expected, 0)
            await first.close()

    async def test_a_head_that_has_started_again_finds_nothing(self, tmp_path):
        async with make_ring(tmp_path, 2) as ring:
            expected, _ = await ask(ring)
            ring.prefix_secret = PrefixSecret()
            assert await ask(ring) == (expected, 0)

    async def test_rows_behind_another_hop_are_other_rows(self, tmp_path):
        async with make_ring(tmp_path, 2) as ring:
            expected, _ = await ask(ring)
            replaced = ring.providers.pop()
            ring.add_provider(replaced.span)
            assert await ask(ring) == (expected, 0)
            await replaced.host.close()
            await replaced.runner.stop()


class TestUnequalHops:
    @pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "open"])
    @pytest.mark.parametrize("victim", [0, 1, 2])
    async def test_a_hop_that_is_cold_makes_all_begin_again(self, tmp_path, victim, sealed):
        expected = await fresh(tmp_path, sealed=sealed)
        async with make_ring(tmp_path, 3, sealed=sealed) as ring:
            await ask(ring)
            await ring.providers[victim].engine.restart()
            assert await ask(ring) == (expected, 0)
            assert rows_run(ring) == [len(PROMPT) + MAX_TOKENS - 1] * 3
            assert await ask(ring) == (expected, BLOCKS_TOKENS)

    @pytest.mark.parametrize("victim", [0, 1, 2])
    async def test_all_begin_where_the_shortest_ends(self, tmp_path, victim):
        expected = await fresh(tmp_path)
        async with make_ring(tmp_path, 3, paid=True) as ring:
            await ask(ring)
            await ring.providers[victim].engine.restart()
            await ask(ring, PROMPT[:70])
            assert await ask(ring) == (expected, 64)
            assert set(rows_run(ring)) == {len(PROMPT) + MAX_TOKENS - 1 - 64}

    async def test_a_session_that_ends_before_its_first_step_harms_nothing(self, tmp_path):
        expected = await fresh(tmp_path)
        async with make_ring(tmp_path, 3, paid=True) as ring:
            await ask(ring)
            await ring.providers[1].engine.restart()
            await ask(ring, PROMPT[:70])
            async with opened(ring):
                """A TRUNCATE is on its way when CLOSE overtakes it."""
            assert await ask(ring) == (expected, 64)

    async def test_a_hop_that_claims_what_was_not_offered_is_named(self, tmp_path):
        class Boaster(FakeEngine):
            def open(self, sequence_id, **options):
                return super().open(sequence_id, **options) + 64

        def boast(spec):
            engine = load(spec)
            return Boaster(engine._spec, engine.info)

        model = dataclasses.replace(fake_model(tmp_path), loads=(load, boast))
        async with make_ring(tmp_path, 2, model=model) as ring:
            with pytest.raises(HopFailed, match="not offered") as caught:
                await ask(ring, PROMPT[:20])
        assert (caught.value.code, caught.value.hop_index) == (ErrorCode.MALFORMED, 1)


class TestWhatIsKept:
    async def test_a_cancelled_answer_leaves_the_rows_that_have_arrived(self, tmp_path):
        async with make_ring(tmp_path, 0, paid=True) as ring:
            for span in spans(3):
                ring.add_provider(span, step_delay_s=0.003)
            async with opened(ring) as (session, ends):
                tokens = generate(session, ends, PROMPT, max_tokens=90, eos=frozenset())
                said = [await anext(tokens) for _ in range(58)]
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(tokens), 0.004)
            turn = (*PROMPT, *said, 1)
            assert await ask(ring, turn) == (await fresh(tmp_path, turn), 256)

    async def test_a_session_that_failed_leaves_nothing(self, tmp_path):
        async with make_ring(tmp_path, 3) as ring:
            async with opened(ring) as (session, ends):
                tokens = generate(session, ends, PROMPT, max_tokens=90, eos=frozenset())
                await anext(tokens)
                ring.providers[1].engine.die()
                with pytest.raises(SessionError):
                    await asyncio.wait_for(anext(tokens), 1)
            for provider in (ring.providers[0], ring.providers[2]):
                assert provider.engine._engine.statistics().kv_tokens_cached == 0


async def test_every_hop_is_paid_for_the_rows_it_ran_and_no_others(tmp_path):
    async with make_ring(tmp_path, 3, paid=True) as ring:
        paid = []
        for _ in range(2):
            await ask(ring)
            lanes = [list(p.collector._lanes.values())[-1].receipt for p in ring.providers]
            assert all(receipt.final for receipt in lanes)
            for receipt, provider in zip(lanes, ring.providers, strict=True):
                report = provider.server.reports[-1]
                assert receipt.tokens == report.tokens
                assert receipt.work.bytes_in == report.bytes_received
                assert receipt.work.bytes_out == report.bytes_sent
                assert receipt.amount_nanos == report.amount_nanos
            assert lanes[0].link_out_hash == lanes[1].link_in_hash
            assert lanes[1].link_out_hash == lanes[2].link_in_hash
            paid.append(lanes)
    for first, second in zip(*paid, strict=True):
        assert first.tokens - second.tokens == BLOCKS_TOKENS
        saved = first.work.prefill_token_layers - second.work.prefill_token_layers
        assert saved % BLOCKS_TOKENS == 0
        assert saved > 0
        assert second.amount_nanos < first.amount_nanos


async def test_a_part_of_a_span_is_kept_as_that_part(tmp_path):
    expected = await fresh(tmp_path)
    async with make_ring(tmp_path, 0) as ring:
        for held, used in ((Span(0, 5), Span(0, 4)), (Span(3, 8), Span(4, 8))):
            ring.add_provider(held).span = used
        assert await ask(ring) == (expected, 0)
        assert await ask(ring) == (expected, BLOCKS_TOKENS)
        ring.providers[0].span, ring.providers[1].span = Span(0, 5), Span(5, 8)
        assert await ask(ring) == (expected, 0)
