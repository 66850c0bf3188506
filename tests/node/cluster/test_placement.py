"""Agreement without asking: the same records, the same plan; and it stays while it can."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from node.cluster.agreement import SETTLE_S, Agreement
from node.cluster.placement import agree
from protocol.identity import KeyPair
from protocol.machine import Assignment, ClusterPlan
from protocol.route import Span
from tests.node.cluster.house import LAYERS, MODEL, record_of, room

KEYS = [KeyPair(bytes([65 + n]) * 32) for n in range(6)]


@st.composite
def houses(draw, size_min=1):
    """Records of some machines with room, speeds and ages of all kinds."""
    records = []
    for key in draw(st.permutations(KEYS))[: draw(st.integers(size_min, len(KEYS)))]:
        layers = draw(st.integers(0, LAYERS))
        beside_end = draw(st.integers(0, layers))
        has_room = draw(st.integers(0, 4)) > 0
        records.append(
            record_of(
                key, "m", joined_at_ms=draw(st.integers(1, 4)),
                room=room(layers, beside_end, draw(st.integers(0, beside_end)))
                if has_room else None,
                token_layers_per_s=draw(st.sampled_from([0, 10, 50])),
            )
        )  # fmt: skip
    return records


def follow(records, plan):
    return [replace(record, plan=plan) for record in records]


def fits(plan, records):
    rooms = {record.peer_id: record.room for record in records}
    for assignment in plan.assignments:
        of = rooms[assignment.peer_id]
        ends = (assignment.span.start == 0) + (assignment.span.end == LAYERS)
        if of is None or len(assignment.span) > (of.layers, of.beside_end, of.with_ends)[ends]:
            return False
    return True


@given(houses(), st.randoms(use_true_random=False))
def test_every_machine_comes_to_the_same_plan(records, dice):
    plan = agree(records, MODEL, LAYERS)
    shuffled = random.Random(dice.random()).sample(records, len(records))
    assert agree(shuffled, MODEL, LAYERS) == plan
    assert plan is None or fits(plan, records)


@given(houses())
def test_a_plan_stands_whoever_has_heard_of_it_first(records):
    plan = agree(records, MODEL, LAYERS)
    for count in range(1, len(records) + 1) if plan else ():
        heard = follow(records[:count], plan) + records[count:]
        assert agree(heard, MODEL, LAYERS) == plan


@given(houses(), st.integers(0, 50))
def test_a_machine_that_comes_changes_nothing(records, speed):
    plan = agree(records, MODEL, LAYERS)
    if plan is not None:
        joiner = record_of(
            KeyPair(b"j" * 32), "joiner", joined_at_ms=9, room=room(LAYERS),
            token_layers_per_s=speed,
        )  # fmt: skip
        assert agree([*follow(records, plan), joiner], MODEL, LAYERS) == plan


@settings(max_examples=200)
@given(houses(size_min=2), st.data())
def test_when_one_leaves_the_next_plan_is_made_from_the_last(records, data):
    plan = agree(records, MODEL, LAYERS)
    if plan is None:
        return
    left = data.draw(st.permutations(follow(records, plan)))[1:]
    after = agree(left, MODEL, LAYERS)
    if after is None:
        assert agree([replace(record, plan=None) for record in left], MODEL, LAYERS) is None
        return
    assert fits(after, left)
    gone = {a.peer_id for a in plan.assignments} - {record.peer_id for record in left}
    assert after.epoch == plan.epoch + bool(gone)
    assert (after == plan) == (not gone)


@given(houses())
def test_measuring_speeds_moves_nothing(records):
    plan = agree(records, MODEL, LAYERS)
    measured = [
        replace(record, token_layers_per_s=7 * n) for n, record in enumerate(follow(records, plan))
    ]
    assert plan is None or agree(measured, MODEL, LAYERS) == plan


def plan_of(epoch, *parts):
    return ClusterPlan(
        epoch, MODEL, LAYERS, tuple(Assignment(key.peer_id, span) for key, span in parts)
    )


def test_of_two_plans_the_later_is_followed_and_of_one_epoch_the_elder_machines():
    first, second = KEYS[:2]
    whole = Span(0, LAYERS)
    records = [record_of(first, "first", joined_at_ms=1), record_of(second, "second")]
    for epochs, winner in (((1, 2), second), ((2, 1), first), ((3, 3), first)):
        plans = [plan_of(epochs[0], (first, whole)), plan_of(epochs[1], (second, whole))]
        heard = [replace(r, plan=p) for r, p in zip(records, plans, strict=True)]
        agreed = agree(heard, MODEL, LAYERS)
        assert [a.peer_id for a in agreed.assignments] == [winner.peer_id]


def test_machines_of_another_model_hold_nothing_of_this_one():
    other = record_of(KEYS[0], "other", manifest_hash=b"o" * 32)
    unknown = record_of(KEYS[1], "unknown", manifest_hash=None)
    assert agree([other, unknown], MODEL, LAYERS) is None


def test_a_plan_for_another_number_of_layers_is_no_plan():
    liar = ClusterPlan(9, MODEL, 3, (Assignment(KEYS[0].peer_id, Span(0, 3)),))
    agreed = agree([record_of(KEYS[0], "a", plan=liar)], MODEL, LAYERS)
    assert (agreed.layers, agreed.epoch) == (LAYERS, 1)


def test_a_new_plan_waits_until_nobody_comes_any_more():
    agreement = Agreement(MODEL, LAYERS)
    one = [record_of(KEYS[0], "a")]
    two = [*one, record_of(KEYS[1], "b")]
    assert agreement.observe(one, (), 0) is None
    assert agreement.observe(one, (), SETTLE_S - 0.1) is None
    assert agreement.observe(one, [KEYS[1].peer_id], SETTLE_S) is None, "b is announced"
    assert agreement.observe(two, (), SETTLE_S + 1) is None
    assert agreement.observe(two, (), 2 * SETTLE_S + 1) is not None


def test_a_plan_that_others_follow_is_followed_at_once():
    plan = plan_of(1, (KEYS[1], Span(0, LAYERS)))
    records = [record_of(KEYS[0], "a"), record_of(KEYS[1], "b", plan=plan)]
    assert Agreement(MODEL, LAYERS).observe(records, (), 0) == plan
