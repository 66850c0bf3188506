"""A hop dies at any token: the answer goes on, and is the one it would have been."""

import asyncio
import contextlib
import dataclasses
import itertools

import pytest

from node.errors import MarketRefused, MarketUnreachable
from node.head.generate import generate
from node.head.live_session import LiveSession
from node.router.base import RouteRequest
from protocol.envelope import open_envelope
from protocol.errors import ErrorCode, HopFailed, PieceworkError
from protocol.receipt import CosignedReceipt, Receipt
from protocol.route import Hop, Span
from protocol.sampling import SamplingParameters
from protocol.session import REPAIRS_MAX
from tests.flows.ring import LAYERS, PROMPT, make_ring, spans
from tests.flows.ring_router import RingRouter

LONG = tuple((5 * n + 1) % 97 for n in range(300))
HOPS = 3


async def reference(tmp_path, *, prompt=PROMPT, max_tokens=24, **options) -> list[int]:
    async with make_ring(tmp_path, 1, **options) as ring:
        return await ring.answer(prompt=prompt, max_tokens=max_tokens)


class Story:
    """One answer on a ring with spares, and what happens to it."""

    def __init__(self, ring, *, spares=1, standbys=()) -> None:
        self.ring = ring
        self.router = RingRouter(ring)
        self.members = list(ring.providers)
        self.standbys = {index: self.spare(index) for index in standbys}
        for index, _ in itertools.product(range(len(self.members)), range(spares)):
            span = self.members[index].span
            self.router.spares.setdefault(span, []).append(self.spare(index))
        self.session: LiveSession | None = None
        self.tokens: list[int] = []

    def spare(self, index):
        provider = self.ring.add_provider(self.members[index].span)
        self.ring.providers.remove(provider)
        self.ring.spares.append(provider)
        return provider

    def at(self, index):
        """Who is hop `index` now."""
        peer_id = self.session.plan.route.hops[index].peer_id
        return next(p for p in (*self.members, *self.ring.spares) if p.key.peer_id == peer_id)

    async def kill(self, index, *, silent=False):
        await self.ring.network.kill(self.at(index).key.peer_id, silent=silent)

    def request(self, prompt, max_tokens):
        return RouteRequest(
            self.ring.model.manifest, len(prompt), max_tokens, self.ring.wire, self.ring.sealed, ""
        )

    async def tell(self, *, prompt=PROMPT, max_tokens=24, happens=None):
        """The answer's tokens; `happens(story, count)` is awaited behind every token."""
        ends = self.ring.ends()
        plan = self.ring.plan()
        hops = {
            index: Hop(p.key.peer_id, p.span, tuple(map(str, p.host.addresses)))
            for index, p in self.standbys.items()
        }
        plan = dataclasses.replace(plan, standbys=hops)
        self.session = session = LiveSession(
            self.ring.session(plan, ends),
            self.router,
            self.request(prompt, max_tokens),
            lambda plan, record, epoch, resume: self.ring.session(
                plan, ends, record=record, epoch=epoch, resume=resume
            ),
        )
        try:
            await ends.open()
            await session.open()
            if happens:
                await happens(self, 0)
            answer = generate(session, ends, prompt, max_tokens=max_tokens, eos=frozenset())
            async with contextlib.aclosing(answer):
                async for token in answer:
                    self.tokens.append(token)
                    if happens:
                        await happens(self, len(self.tokens))
        finally:
            await session.close(cancelled=False)
            await ends.close()
            await session.settle()
        return self.tokens


def once(at, action):
    """Do it behind token `at`."""

    async def happens(story, count):
        if count == at:
            await action(story)

    return happens


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("index", range(HOPS))
async def test_any_hop_may_die(tmp_path, index, silent, sealed):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, HOPS, sealed=sealed) as ring:
        story = Story(ring)
        happens = once(7, lambda story: story.kill(index, silent=silent))
        assert await story.tell(happens=happens) == expected
        assert story.session.repairs == 1
        assert story.router.asked == [([index], len(PROMPT) + 6)]


@pytest.mark.parametrize("at", [0, 1, 2, 23])
async def test_at_any_token(tmp_path, at):
    expected = await reference(tmp_path, prompt=LONG)
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring)
        happens = once(at, lambda story: story.kill(1))
        assert await story.tell(prompt=LONG, happens=happens) == expected
        assert story.session.repairs == 1


async def test_survivors_run_nothing_twice(tmp_path):
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring)
        await story.tell(prompt=LONG, happens=once(7, lambda story: story.kill(1)))
        rows = [p.engine._engine.statistics().rows for p in story.members]
        new = story.at(1).engine._engine.statistics().rows
        full = len(LONG) + 23
        assert full <= rows[0] <= full + 1, "a step under way is run again, nothing else"
        assert full <= rows[2] <= full + 1
        assert full <= new <= full + 1, "the new hop has run every row once"


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (0, 2), (0, 1, 2)])
async def test_several_at_once(tmp_path, pair):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring, spares=2)

        async def all_of_them(story):
            for index in pair:
                await story.kill(index)

        assert await story.tell(happens=once(5, all_of_them)) == expected


async def test_one_after_the_other(tmp_path):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring, spares=2)

        async def happens(story, count):
            if count % 4 == 3:
                await story.kill(count // 4 % HOPS)

        assert await story.tell(happens=happens) == expected
        assert story.session.repairs == 6


async def test_a_kill_during_a_repair(tmp_path):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, HOPS, delay_s=0.01) as ring:
        story = Story(ring, spares=2)

        async def twice(story):
            await story.kill(1)

            async def strike():
                while not story.router.asked:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.015)
                await story.kill(2)

            story.strike = asyncio.create_task(strike())

        assert await story.tell(happens=once(5, twice)) == expected
        assert story.session.repairs >= 1


async def test_a_standby_takes_over_without_asking_anybody(tmp_path):
    expected = await reference(tmp_path, prompt=LONG)
    for index in range(HOPS):
        async with make_ring(tmp_path, HOPS) as ring:
            story = Story(ring, spares=0, standbys=range(HOPS))

            async def later(story, index=index):
                await asyncio.sleep(0.1)
                await story.kill(index)

            assert await story.tell(prompt=LONG, happens=once(7, later)) == expected
            assert story.router.asked == []
            standby = story.standbys[index].engine._engine.statistics()
            assert standby.steps < len(LONG), "it was brought along in larger steps"


async def test_a_standby_that_dies_is_nobodys_failure(tmp_path):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring, spares=1, standbys=range(HOPS))

        async def happens(story, count):
            if count in (3, 6, 9):
                standby = story.standbys[count // 3 - 1]
                await ring.network.kill(standby.key.peer_id, silent=count == 6)
            if count == 12:
                await story.kill(0)

        assert await story.tell(happens=happens) == expected


async def test_a_wholly_new_route_when_nobody_fits_in_place(tmp_path):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring, spares=0)

        class Anew(RingRouter):
            async def replace(self, plan, lost, request, *, rows, epoch=None):
                if len(lost) < len(plan.route.hops):
                    return await super().replace(plan, lost, request, rows=rows)
                self.asked.append((sorted(lost), rows))
                return dataclasses.replace(ring.plan(), session_id=plan.session_id)

        story.router = Anew(ring)

        async def change_house(story):
            for provider in list(ring.providers):
                ring.spares.append(provider)
            ring.providers.clear()
            for span in spans(2, LAYERS):
                ring.add_provider(span)
            await story.kill(1)

        assert await story.tell(happens=once(9, change_house)) == expected
        assert len(story.session.plan.route.hops) == 2
        assert len({hop for trace in story.session.traces for hop in trace.plan.route.hops}) == 5


@pytest.mark.parametrize(
    "error",
    [MarketUnreachable("It is starting anew."), MarketRefused(503, "database_unavailable", "away")],
    ids=["gone", "away"],
)
async def test_a_repair_waits_for_the_marketplace(tmp_path, error):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring)

        class Away(RingRouter):
            async def replace(self, plan, lost, request, *, rows, epoch=None):
                if len(self.asked) < 2:
                    self.asked.append((sorted(lost), rows))
                    raise error
                return await super().replace(plan, lost, request, rows=rows)

        spares, story.router = story.router.spares, Away(ring)
        story.router.spares = spares
        assert await story.tell(happens=once(7, lambda story: story.kill(1))) == expected
        assert story.router.asked == [([1], len(PROMPT) + 6)] * 3
        assert story.session.repairs == 1


async def test_the_same_tokens_are_drawn_again(tmp_path):
    sampling = SamplingParameters(seed=11)
    async with make_ring(tmp_path, 1, sealed=False) as ring:
        ring.sampling = sampling
        expected = await ring.answer()
    for index in range(HOPS):
        async with make_ring(tmp_path, HOPS, sealed=False) as ring:
            ring.sampling = sampling
            story = Story(ring)
            happens = once(7, lambda story, index=index: story.kill(index))
            assert await story.tell(happens=happens) == expected


async def test_a_route_that_always_breaks_ends_with_an_honest_error(tmp_path):
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring, spares=REPAIRS_MAX + 2)
        with pytest.raises(HopFailed, match="hop 1"):
            await story.tell(max_tokens=40, happens=lambda story, count: story.kill(1))
        assert story.session.repairs == REPAIRS_MAX
        assert len(story.tokens) >= REPAIRS_MAX


def last_receipts(provider):
    """The largest receipt of each lease."""
    found = {}
    for data in provider.collector._log.load() + provider.collector._sink.receipts:
        receipt = open_envelope(Receipt, CosignedReceipt.decode(data).envelope)
        if receipt.lease_id not in found or found[receipt.lease_id].sequence < receipt.sequence:
            found[receipt.lease_id] = receipt
    return list(found.values())


@pytest.mark.parametrize("index", range(HOPS))
async def test_everyone_is_paid_for_what_he_carried_and_nobody_twice(tmp_path, index):
    expected = await reference(tmp_path, prompt=LONG)
    async with make_ring(tmp_path, HOPS, paid=True) as ring:
        story = Story(ring)
        happens = once(9, lambda story: story.kill(index))
        assert await story.tell(prompt=LONG, happens=happens) == expected
        await asyncio.sleep(0.05)
        full = len(LONG) + 23
        for position, member in enumerate(story.members):
            (receipt,) = last_receipts(member)
            if position == index:
                assert receipt.tokens <= len(LONG) + 9
                assert not receipt.final
            else:
                assert (receipt.tokens, receipt.final, receipt.epoch) == (full, True, 1)
        (receipt,) = last_receipts(story.at(index))
        assert (receipt.tokens, receipt.final, receipt.epoch) == (full, True, 1)
        layers = len(Span(0, LAYERS)) // HOPS
        assert receipt.work.prefill_token_layers >= (len(LONG) + 8) * layers


async def test_a_liar_on_a_link_is_the_one_who_is_replaced(tmp_path):
    expected = await reference(tmp_path)
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring)

        async def talk_nonsense(story):
            (driver,) = story.at(1).server._drivers.values()
            await driver._epoch._onward.link._stream.send(b"\x04" + b"nonsense" * 20)

        assert await story.tell(happens=once(7, talk_nonsense)) == expected
        assert story.router.asked == [([1], len(PROMPT) + 6)]


async def test_everything_is_freed_whatever_happened(tmp_path):
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring, standbys=(1,))

        async def happens(story, count):
            if count in (4, 8):
                await story.kill(count // 4)

        await story.tell(happens=happens)
        await asyncio.sleep(0.3)
        for provider in (*story.members, *ring.spares):
            assert not provider.host.is_alive or provider.server.sessions == 0
    await asyncio.sleep(0)
    tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    assert tasks == []


async def test_errors_that_no_other_hop_would_cure_are_not_repaired(tmp_path):
    async with make_ring(tmp_path, HOPS) as ring:
        story = Story(ring)

        async def refuse(story):
            story.session._session._hops.lose(1, ErrorCode.CONTEXT_TOO_LONG, "too long")

        with pytest.raises(PieceworkError, match="too long"):
            await story.tell(happens=once(3, refuse))
        assert story.session.repairs == 0


@pytest.mark.parametrize("at", [4, 6, 7])
async def test_payment_goes_on_for_many_windows_behind_a_repair(tmp_path, at):
    expected = await reference(tmp_path, max_tokens=100)
    async with make_ring(tmp_path, HOPS, paid=True) as ring:
        ring.credit_windows = 1
        story = Story(ring)
        happens = once(at, lambda story: story.kill(1))
        assert await story.tell(max_tokens=100, happens=happens) == expected
        assert story.session.repairs == 1
