"""Engines load what was pulled or split, holes and all, and compute the same as from the whole."""

import numpy as np
import pytest

from node.engine.backends import available_backends, load_engine
from node.engine.base import ComputeDtype, Output, ShardSpec, StepItem
from node.engine.holdings import verify_span
from node.engine.store import TINY_MODEL, build_manifest, resolve_model
from node.models.hub_source import HubSource
from node.models.progress import FetchProgress
from node.models.pull import PullOrder, pull_model
from node.models.roster import Roster
from node.models.split import split_model
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.node.models.hub_server import serving

WHOLE = resolve_model(TINY_MODEL, models_directory=None)
SPAN = Span(2, 5)


@pytest.fixture(scope="module")
def manifest():
    return build_manifest(WHOLE, "org/tiny")


def hidden_after(directory, backend, manifest):
    """What the span makes of fixed rows."""
    engine = load_engine(ShardSpec(directory, SPAN, False, False, ComputeDtype.FP32), backend)
    rows = np.random.default_rng(1).standard_normal((5, manifest.hidden_size), np.float32)
    engine.open(1, capacity_tokens=64, sampling=None)
    item = StepItem(1, 0, 5, 5, Output.HIDDEN, WireDtype.FP32, hidden=rows)
    (result,) = engine.step([item])
    return result.hidden


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("way", ["pulled", "split"])
async def test_span_computes_the_same(way, backend, manifest, tmp_path):
    if backend not in available_backends():
        pytest.skip(f"{backend} is not installed")
    directory = tmp_path / "org" / "tiny"
    if way == "split":
        split_model(manifest, WHOLE, SPAN, False, directory)
    else:
        with serving(WHOLE) as hub:
            events = FetchProgress()
            roster = Roster([await HubSource.open(hub.repository, endpoint=hub.url)], events)
            await pull_model(PullOrder("org/tiny", SPAN), directory, roster, events)
            await roster.close()
        (directory / "piecework.manifest").write_bytes(manifest.encode())
    verify_span(manifest, directory, SPAN, ends=False)
    here = hidden_after(directory, backend, manifest)
    assert np.array_equal(here, hidden_after(WHOLE, backend, manifest))
