"""Room for layers beside the ends, and speed from an engine's counters."""

import pytest

from node.app.room import room_for, spare_bytes
from node.app.shard import LoadedModel
from node.app.speed import SpeedMeter
from node.engine.base import ComputeDtype, EngineStatistics
from node.engine.store import build_manifest, resolve_model
from protocol.route import Span

KV_TOKENS = 1024
MIB = 2**20


@pytest.fixture(scope="module")
def model():
    directory = resolve_model("piecework/tiny", models_directory=None)
    return LoadedModel(directory, build_manifest(directory, "piecework/tiny"))


def room(model, mib, dtype=ComputeDtype.FP32):
    of = room_for(model, int(mib * MIB), dtype, KV_TOKENS)
    return of.layers, of.beside_end, of.with_ends


def test_ends_take_the_room_of_layers(model):
    assert room(model, 10) == (4, 3, 2)
    assert room(model, 100) == (8, 8, 8)
    assert room(model, 1) == (0, 0, 0)


def test_smaller_dtypes_make_more_room(model):
    assert room(model, 9, ComputeDtype.BF16) > room(model, 9)


def test_what_is_left_is_spare(model):
    give = 100 * MIB
    spare = [
        spare_bytes(model, span, give, ComputeDtype.FP32, KV_TOKENS)
        for span in (Span(2, 4), Span(0, 2), Span(0, 8))
    ]
    assert give > spare[0] > spare[1] > spare[2] > 0
    assert spare_bytes(model, Span(0, 8), MIB, ComputeDtype.FP32, KV_TOKENS) == 0


def counted(steps, rows, busy_s):
    return EngineStatistics(0, 0, 1, steps, rows, busy_s)


def test_speed_is_measured_from_decodes_alone():
    meter = SpeedMeter()
    assert meter.measure(counted(0, 0, 0.0), 4) == 0
    assert meter.measure(counted(8, 8, 1.0), 4) == 0, "too few"
    assert meter.measure(counted(40, 3_000, 9.0), 4) == 0, "prefill"
    assert meter.measure(counted(80, 3_040, 10.0), 4) == 160
    assert meter.measure(counted(120, 3_080, 11.1), 4) == 160, "within a fifth: the same"
    assert meter.measure(counted(160, 3_120, 11.6), 4) == 320
    assert meter.measure(counted(0, 0, 0.0), 4) == 320, "an engine that was started again"
