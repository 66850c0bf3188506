"""The roofline engine: the checks and shapes of any engine, a script for text, a wait for time."""

import time

import numpy as np
import pytest

from benchmarks.wan.drafters import ScriptDrafter
from benchmarks.wan.roofline import RooflineEngine
from benchmarks.wan.script import Script
from benchmarks.wan.scripted_shard import ScriptedShard
from benchmarks.wan.shapes import SHAPES, VOCABULARY, Curve
from node.engine.base import Output, StepItem, wire_array_shape
from node.engine.errors import StepInvalid
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

SHAPE = SHAPES["8B"]
GREEDY = SamplingParameters(temperature_millionths=0)
WIRE = WireDtype.INT8B32


def whole() -> ScriptedShard:
    return ScriptedShard(SHAPE, Span(0, SHAPE.layers), embeds=True, has_head=True)


def item(position: int, count: int, *, wanted: int = 1, output: Output = Output.TOKENS) -> StepItem:
    tokens = np.zeros(count, np.int32)
    return StepItem(1, position, count, wanted, output, WIRE, tokens=tokens)


def opened() -> ScriptedShard:
    shard = whole()
    shard.open(1, capacity_tokens=64, sampling=GREEDY)
    return shard


def test_tokens_are_the_scripts_at_the_places_behind_the_wanted_rows():
    (result,) = opened().step([item(0, 8, wanted=3)])
    assert result.tokens.tolist() == Script(VOCABULARY).tokens(6, 3).tolist()


def test_rows_have_the_wire_shape_and_another_shard_takes_them():
    shard = opened()
    (result,) = shard.step([item(0, 5, wanted=5, output=Output.HIDDEN)])
    assert result.hidden.shape == wire_array_shape(5, SHAPE.hidden_size, WIRE)
    after = ScriptedShard(SHAPE, Span(16, 32), embeds=False, has_head=True)
    after.open(1, capacity_tokens=64, sampling=GREEDY)
    step = StepItem(1, 0, 5, 1, Output.TOKENS, WIRE, hidden=result.hidden)
    assert after.step([step])[0].tokens.tolist() == Script(VOCABULARY).tokens(5, 1).tolist()


def test_a_step_must_begin_where_the_rows_end_and_truncate_takes_rows_back():
    shard = opened()
    shard.step([item(0, 8)])
    (refused,) = shard.step([item(4, 1)])
    assert isinstance(refused, StepInvalid)
    shard.truncate(1, 4)
    assert shard.step([item(4, 1)])[0].tokens.tolist() == Script(VOCABULARY).tokens(5, 1).tolist()


async def test_a_batch_takes_what_the_curve_says_and_two_take_turns():
    engine = RooflineEngine(whole(), Curve(step_ms=20, row_ms=1))
    await engine.open(1, capacity_tokens=64, sampling=GREEDY)
    began = time.monotonic()
    await engine.step([item(0, 10)])
    await engine.step([item(10, 10)])
    # the engine may make up for a late wake of the kernel by half a millisecond at most
    assert time.monotonic() - began >= 2 * (0.030 - 0.0005)
    await engine.stop()


@pytest.mark.parametrize("acceptance", [0.0, 0.6, 1.0])
async def test_drafts_hold_as_often_as_told_and_the_same_ones_each_time(acceptance):
    drafter, branch = ScriptDrafter(acceptance), [0] * 50
    draft = await drafter.propose(branch, 2000)
    right = Script(VOCABULARY).tokens(50, 2000).tolist()
    held = sum(a == b for a, b in zip(draft.tokens, right, strict=True))
    assert held == pytest.approx(2000 * acceptance, abs=100)
    again = await drafter.propose([0] * 60, 10)
    assert again.tokens == draft.tokens[10:20]
