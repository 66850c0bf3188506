"""What a pull fetches, as values."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.errors import ShardMismatch
from node.models.plan import RUN_BYTES_MAX, Piece, plan_runs, shard_pieces, weight_map
from protocol.model import ENDS, TensorEntry
from protocol.route import Span
from tests.protocol.samples import MANIFEST, digest

LAYER_TENSORS = [
    TensorEntry(
        f"model.layers.{k}.w", k, f"{k // 2}.safetensors", 100 * k, 100 * (k + 1), digest("w")
    )
    for k in range(4)
]
HEAD = TensorEntry("lm_head.weight", ENDS, "1.safetensors", 400, 450, digest("head"))
TENSORS = (*LAYER_TENSORS, HEAD)
MODEL = dataclasses.replace(MANIFEST, layers=4, tensors=TENSORS)


def names(runs):
    return [[piece.name for piece in run.pieces] for run in runs]


class TestShardPieces:
    @pytest.mark.parametrize(
        ("span", "ends", "count"),
        [
            (Span(0, 4), True, 5),
            (Span(1, 3), False, 2),
            (Span(0, 0), True, 1),
            (Span(0, 0), False, 0),
        ],
    )
    def test_span_and_ends(self, span, ends, count):
        pieces = shard_pieces(MODEL, span, ends)
        assert len(pieces) == count
        assert sum(p.size_bytes for p in pieces) == MODEL.size_bytes(span, ends=ends)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"file": "config.json"}, "no weight file"),
            ({"file": "piecework.journal"}, "no weight file"),
            ({"end": 2**62}, "no weight file"),
            ({"layer": 3}, "another layer"),
            ({"name": "model.layers.1.w"}, "twice"),
        ],
        ids=str,
    )
    def test_manifest_that_leads_astray_is_refused(self, change, says):
        wrong = dataclasses.replace(TENSORS[0], **change)
        manifest = dataclasses.replace(MODEL, tensors=(wrong, *TENSORS[1:]))
        with pytest.raises(ShardMismatch, match=says):
            shard_pieces(manifest, Span(1, 2), False)

    def test_too_many_files(self):
        tensors = tuple(
            dataclasses.replace(TENSORS[0], name=f"t{k}", layer=ENDS, file=f"{k}.safetensors")
            for k in range(5000)
        )
        with pytest.raises(ShardMismatch, match="4096"):
            shard_pieces(dataclasses.replace(MODEL, tensors=tensors), Span(0, 1), False)

    def test_index_is_the_manifests_own(self):
        assert weight_map(MODEL)["model.layers.3.w"] == "1.safetensors"


class TestPlanRuns:
    def test_neighbours_in_a_file_are_one_run(self):
        runs = plan_runs(shard_pieces(MODEL, Span(0, 4), True), ())
        assert names(runs) == [
            ["model.layers.0.w", "model.layers.1.w"],
            ["model.layers.2.w", "model.layers.3.w", "lm_head.weight"],
        ]
        assert [run.size_bytes for run in runs] == [200, 250]

    def test_what_is_here_is_left_out_and_cuts_the_run(self):
        runs = plan_runs(shard_pieces(MODEL, Span(0, 4), True), {"model.layers.3.w"})
        assert names(runs)[1:] == [["model.layers.2.w"], ["lm_head.weight"]]

    def test_run_ends_at_its_size(self):
        size = RUN_BYTES_MAX // 2
        pieces = [Piece(str(k), "f.safetensors", k * size, (k + 1) * size, None) for k in range(5)]
        assert [len(run.pieces) for run in plan_runs(pieces, ())] == [2, 2, 1]

    @given(
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 2**26)), max_size=40
        ),
        st.sets(st.integers(0, 39)),
    )
    def test_every_missing_piece_once_without_gaps(self, sizes, have):
        pieces, ends = [], {}
        for index, (file, gap, size) in enumerate(sizes):
            start = ends.get(file, 0) + gap
            ends[file] = start + size
            pieces.append(Piece(str(index), f"{file}.safetensors", start, start + size, None))
        runs = plan_runs(pieces, {str(index) for index in have})
        planned = [piece for run in runs for piece in run.pieces]
        assert sorted(p.name for p in planned) == sorted(
            p.name for p in pieces if int(p.name) not in have
        )
        for run in runs:
            assert len({piece.file for piece in run.pieces}) == 1
            assert run.size_bytes == sum(piece.size_bytes for piece in run.pieces)
            assert run.size_bytes <= RUN_BYTES_MAX or len(run.pieces) == 1
