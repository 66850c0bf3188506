"""Routes of a house: found, patched where a hop is lost, with others kept ready."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.router.base import RoutePlan, RouteRequest
from node.router.lan import LanRouter
from protocol.errors import NoRoute
from protocol.identity import KeyPair
from protocol.model import ModelManifest
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.protocol.samples import ANNOUNCEMENT

MANIFEST = ModelManifest(
    "house/model", "llama", 12, 64, 1000, 4096, "bf16", "mit", True, bytes(32), bytes(32), ()
)
REQUEST = RouteRequest(MANIFEST, 20, 30, WireDtype.BF16, sealed=False, api_key="")


def machine(number: int, start: int, end: int, **changes):
    return dataclasses.replace(
        ANNOUNCEMENT,
        peer_id=KeyPair(bytes([number]) * 32).peer_id,
        addresses=(f"/ip4/192.0.2.{number}/udp/4001/quic-v1",),
        model=MANIFEST.name,
        manifest_hash=MANIFEST.manifest_hash,
        layers=12,
        span=Span(start, end),
        backend=f"backend {number}",
        **changes,
    )


LEFT, MIDDLE, RIGHT = machine(1, 0, 4), machine(2, 4, 8), machine(3, 8, 12)


def router(*others, standbys=True) -> LanRouter:
    return LanRouter(lambda: [LEFT, MIDDLE, RIGHT, *others], standbys=standbys)


def peers(plan: RoutePlan):
    return [hop.peer_id for hop in plan.route.hops]


def without(*machines) -> RouteRequest:
    return dataclasses.replace(REQUEST, deny=tuple(m.peer_id for m in machines))


class TestPlan:
    async def test_a_route_and_who_stands_by(self):
        other, wide = machine(4, 4, 8), machine(5, 7, 12)
        plan = await router(other, wide).plan(REQUEST)
        assert peers(plan) == [LEFT.peer_id, MIDDLE.peer_id, RIGHT.peer_id]
        assert plan.epoch == 0
        assert {i: hop.peer_id for i, hop in plan.standbys.items()} == {
            1: other.peer_id,
            2: wide.peer_id,
        }
        assert plan.standbys[2].span == Span(8, 12)
        assert plan.standbys[2].addresses == wide.addresses

    async def test_none_where_none_are_wanted(self):
        plan = await router(machine(4, 4, 8), standbys=False).plan(REQUEST)
        assert plan.standbys == {}

    async def test_missing_layers_are_named(self):
        with pytest.raises(NoRoute, match="4:8"):
            await router().plan(without(MIDDLE))


class TestReplace:
    async def test_another_in_the_same_place(self):
        other = machine(4, 3, 9)
        plan = await router(standbys=False).plan(REQUEST)
        patched = await router(other).replace(
            plan, frozenset({1}), without(MIDDLE), rows=7, epoch=5
        )
        assert peers(patched) == [LEFT.peer_id, other.peer_id, RIGHT.peer_id]
        assert patched.session_id == plan.session_id
        assert patched.epoch == 5
        assert patched.backends == ("backend 1", "backend 4", "backend 3")
        assert [hop.span for hop in patched.route.hops] == [hop.span for hop in plan.route.hops]
        assert patched.route.hops[1].addresses == other.addresses
        assert patched.route.hops[0] == plan.route.hops[0]
        assert not patched.route.sealed
        again = await router(other).replace(plan, frozenset({1}), without(MIDDLE), rows=7)
        assert again.epoch == 1

    async def test_who_is_warm_comes_first_then_who_holds_the_very_span(self):
        wide, exact = machine(4, 3, 9), machine(5, 4, 8)
        plan = await router(wide, standbys=True).plan(REQUEST)
        assert plan.standbys[1].peer_id == wide.peer_id
        house = router(exact, wide)
        warm = await house.replace(plan, frozenset({1}), without(MIDDLE), rows=7)
        assert peers(warm)[1] == wide.peer_id
        assert warm.standbys[1].peer_id == exact.peer_id
        cold = dataclasses.replace(plan, standbys={})
        patched = await house.replace(cold, frozenset({1}), without(MIDDLE), rows=7)
        assert peers(patched)[1] == exact.peer_id

    async def test_a_standby_that_has_left_is_no_help(self):
        gone = machine(4, 4, 8)
        plan = await router(gone).plan(REQUEST)
        with pytest.raises(NoRoute, match="4:8"):
            await router().replace(plan, frozenset({1}), without(MIDDLE), rows=7)

    async def test_who_is_on_the_route_or_was_is_not_asked(self):
        """A dead machine's announcement outlives it."""
        house = router(standbys=False)
        plan = await house.plan(REQUEST)
        with pytest.raises(NoRoute, match="4:8"):
            await house.replace(plan, frozenset({1}), REQUEST, rows=7)
        wide_left = dataclasses.replace(LEFT, span=Span(0, 8))
        with pytest.raises(NoRoute, match="4:8"):
            await LanRouter(lambda: [wide_left, RIGHT]).replace(
                plan, frozenset({1}), REQUEST, rows=7
            )

    async def test_two_at_once_get_two(self):
        both, one = machine(4, 0, 8), machine(5, 0, 4)
        plan = await router(standbys=False).plan(REQUEST)
        request = without(LEFT, MIDDLE)
        patched = await router(both, one).replace(plan, frozenset({0, 1}), request, rows=7)
        assert peers(patched) == [one.peer_id, both.peer_id, RIGHT.peer_id]
        with pytest.raises(NoRoute, match="4:8"):
            await router(one).replace(plan, frozenset({0, 1}), request, rows=7)

    async def test_all_lost_is_a_new_route_of_the_same_session(self):
        plan = await router().plan(REQUEST)
        house = router(machine(4, 0, 12))
        anew = await house.replace(
            plan, frozenset({0, 1, 2}), without(LEFT, MIDDLE, RIGHT), rows=7, epoch=3
        )
        assert len(anew.route.hops) == 1
        assert (anew.session_id, anew.epoch) == (plan.session_id, 3)
        with pytest.raises(NoRoute):
            await router().replace(plan, frozenset({0, 1, 2}), without(RIGHT), rows=7)

    async def test_two_in_a_row(self):
        fourth, fifth = machine(4, 4, 8), machine(5, 4, 8)
        house = router(fourth, fifth)
        plan = await house.plan(REQUEST)
        one = await house.replace(plan, frozenset({1}), without(MIDDLE), rows=7)
        two = await house.replace(one, frozenset({1}), without(MIDDLE, fourth), rows=9)
        assert {peers(one)[1], peers(two)[1]} == {fourth.peer_id, fifth.peer_id}
        assert two.epoch == 2
        assert two.standbys == {}


spans = st.tuples(st.integers(0, 11), st.integers(1, 12)).map(
    lambda pair: (pair[0], min(12, pair[0] + pair[1]))
)


@given(st.lists(spans, max_size=6), st.sets(st.integers(0, 2), min_size=1, max_size=2))
async def test_whoever_comes_holds_the_span_and_stands_once(others, lost):
    house = [machine(4 + n, *span) for n, span in enumerate(others)]
    plan = await router(standbys=False).plan(REQUEST)
    machines = {m.peer_id: m for m in (LEFT, MIDDLE, RIGHT, *house)}
    try:
        patched = await router(*house).replace(plan, frozenset(lost), REQUEST, rows=1)
    except NoRoute:
        wanted = [plan.route.hops[index].span for index in lost]
        fitting = [[m for m in house if m.span.contains(span)] for span in wanted]
        distinct = {m.peer_id for able in fitting for m in able}
        assert not all(fitting) or len(distinct) < len(wanted)
        return
    everybody = [*patched.route.hops, *patched.standbys.values()]
    assert len({hop.peer_id for hop in everybody}) == len(everybody)
    for hop in everybody:
        assert machines[hop.peer_id].span.contains(hop.span)
    for index in set(range(3)) - lost:
        assert patched.route.hops[index] == plan.route.hops[index]
