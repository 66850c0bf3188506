"""Cutting a shard out of a model, listing what is here, checking it, removing it."""

import dataclasses
import shutil

import pytest
from safetensors import safe_open

from node.app.shard import load_model
from node.config import Home
from node.engine.errors import ModelNotFound, ShardMismatch, WeightsCorrupt
from node.engine.holdings import JOURNAL_NAME, read_holdings, verify_span
from node.engine.store import build_manifest, load_manifest
from node.errors import ConfigInvalid
from node.models.errors import ModelBusy
from node.models.listing import spans_of, summarize
from node.models.partial import PartialModel
from node.models.removal import find_removable, remove_model
from node.models.split import split_model
from node.models.verification import verify_model
from protocol.model import ENDS
from protocol.route import Span
from tests.node.models.checkpoints import LAYERS, NAME, make_model

SPAN = Span(1, 3)


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "models" / NAME)


@pytest.fixture
def manifest(model):
    return build_manifest(model, NAME)


def flip_byte(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


class TestSplit:
    def test_shard_is_accepted_where_it_is_copied_to(self, model, manifest, tmp_path):
        report = split_model(manifest, model, SPAN, False, tmp_path / "out")
        assert report.size_bytes == manifest.size_bytes(SPAN)
        copied = tmp_path / "elsewhere" / "shard"
        shutil.copytree(tmp_path / "out", copied)
        shutil.rmtree(model)
        loaded = load_model(str(copied), Home(tmp_path / "home"))
        assert loaded.manifest == manifest
        verify_span(manifest, copied, SPAN, ends=False)
        with pytest.raises(ShardMismatch, match="--span 0:2"):
            verify_span(manifest, copied, Span(0, 2), ends=False)
        size = sum(path.stat().st_size for path in copied.glob("*.safetensors"))
        assert size < manifest.size_bytes(SPAN) + 2048
        assert not (copied / "tokenizer.json").exists()

    def test_ends_bring_the_tokenizer(self, model, manifest, tmp_path):
        split_model(manifest, model, Span(0, 0), True, tmp_path / "ends")
        verify_span(manifest, tmp_path / "ends", Span(0, 0), ends=True)
        assert (tmp_path / "ends" / "tokenizer_config.json").is_file()

    def test_shard_of_a_shard(self, model, manifest, tmp_path):
        split_model(manifest, model, SPAN, False, tmp_path / "two")
        split_model(manifest, tmp_path / "two", Span(2, 3), False, tmp_path / "one")
        verify_span(manifest, tmp_path / "one", Span(2, 3), ends=False)

    def test_files_are_what_the_safetensors_library_reads(self, model, manifest, tmp_path):
        split_model(manifest, model, SPAN, False, tmp_path / "out")
        names = set()
        for path in (tmp_path / "out").glob("*.safetensors"):
            with safe_open(path, "np") as file:
                names |= set(file.keys())
        assert names == {tensor.name for tensor in manifest.tensors if tensor.layer in (1, 2)}

    def test_wrong_byte_is_not_passed_on(self, model, manifest, tmp_path):
        tensor = next(t for t in manifest.tensors if t.layer == 2)
        flip_byte(model / tensor.file, tensor.start)
        with pytest.raises(WeightsCorrupt, match=tensor.name):
            split_model(manifest, model, SPAN, False, tmp_path / "out")
        with pytest.raises(ShardMismatch):  # what is half written is never loaded
            load_manifest(tmp_path / "out", NAME)

    @pytest.mark.parametrize("span", [Span(0, LAYERS + 1), Span(2, 2)])
    def test_span_that_the_model_has_not(self, model, manifest, span, tmp_path):
        with pytest.raises(ConfigInvalid, match="0:4"):
            split_model(manifest, model, span, False, tmp_path / "out")

    def test_directory_that_is_not_empty_is_left_alone(self, model, manifest, tmp_path):
        with pytest.raises(ConfigInvalid, match="not empty"):
            split_model(manifest, model, SPAN, False, model)


class TestListing:
    def test_whole_model_without_a_manifest(self, model):
        summary = summarize(NAME, model)
        assert (summary.family, summary.layers, summary.dtype) == ("llama", LAYERS, "bf16")
        assert summary.is_whole
        assert (summary.licence, summary.resale_allowed) == ("mit", True)
        assert summary.manifest_hash is None

    def test_shard(self, model, manifest, tmp_path):
        split_model(manifest, model, SPAN, False, tmp_path / "out")
        summary = summarize(NAME, tmp_path / "out")
        assert (summary.spans, summary.has_ends) == ((SPAN,), False)
        assert summary.manifest_hash == manifest.manifest_hash
        assert summary.size_bytes < summarize(NAME, model).size_bytes

    def test_pull_that_has_only_begun(self, tmp_path):
        PartialModel.open(tmp_path / "new").close()
        summary = summarize(NAME, tmp_path / "new")
        assert (summary.spans, summary.has_ends, summary.fault) == ((), False, "")

    def test_broken_model_is_a_line_with_its_fault(self, model):
        (model / "model-00001-of-00003.safetensors").write_bytes(b"nonsense")
        assert "no length" in summarize(NAME, model).fault

    @pytest.mark.parametrize(
        ("have", "spans"),
        [
            ({}, ""),
            ({0: 2, 1: 2, 2: 2}, "0:3"),
            ({0: 2, 1: 1, 2: 2}, "0:1 2:3"),
            ({ENDS: 1, 2: 2}, "2:3"),
        ],
    )
    def test_layers_merge_into_spans(self, have, spans):
        need = {ENDS: 1, 0: 2, 1: 2, 2: 2}
        assert " ".join(map(str, spans_of(have, need))) == spans


class TestVerification:
    def test_whole_model_is_right_and_gets_its_hash(self, model, manifest):
        report = verify_model(NAME, model)
        assert (report.problems, report.missing) == ((), 0)
        assert (report.is_vouched, report.manifest) == (False, manifest)
        assert (report.spans, report.has_ends) == ((Span(0, LAYERS),), True)

    def test_wrong_byte_is_named_and_its_layer_not_counted(self, model, manifest, tmp_path):
        split_model(manifest, model, Span(0, 3), True, tmp_path / "out")
        held = read_holdings(tmp_path / "out")
        tensor = next(t for t in manifest.tensors if t.layer == 1)
        place = held.places[tensor.name]
        flip_byte(tmp_path / "out" / place.file, place.start)
        report = verify_model(NAME, tmp_path / "out")
        assert report.problems == (f"tensor {tensor.name} in {tensor.file} is not the manifest's",)
        assert report.spans == (Span(0, 1), Span(2, 3))
        assert report.missing == 3

    def test_wrong_texts_are_named(self, model, manifest, tmp_path):
        split_model(manifest, model, SPAN, True, tmp_path / "out")
        for name in ("config.json", "tokenizer.json"):
            (tmp_path / "out" / name).write_text("{} ")
        report = verify_model(NAME, tmp_path / "out")
        assert [problem.split()[0] for problem in report.problems] == [
            "config.json",
            "tokenizer.json",
        ]

    def test_manifest_of_another_model(self, model, manifest, tmp_path):
        other = make_model(tmp_path / "other", seed="x")
        (other / "piecework.manifest").write_bytes(manifest.encode())
        assert len(verify_model(NAME, other).problems) == len(manifest.tensors)


class TestRemoval:
    def test_removes_the_model_and_an_empty_organisation(self, model, tmp_path):
        models = tmp_path / "models"
        remove_model(find_removable(NAME, models))
        assert models.is_dir()
        assert not list(models.iterdir())

    @pytest.mark.parametrize(
        "name", ["..", "../x", "org/..", "/etc", "org", "org/tiny/x", "", "./a"]
    )
    def test_refuses_what_is_no_name(self, name, model, tmp_path):
        with pytest.raises(ConfigInvalid):
            find_removable(name, tmp_path / "models")

    def test_unknown_name(self, tmp_path):
        with pytest.raises(ModelNotFound):
            find_removable("org/none", tmp_path / "models")

    @pytest.mark.parametrize("link", ["org/link", "linked/tiny"])
    def test_refuses_links_that_lead_out(self, link, model, tmp_path):
        models = tmp_path / "models"
        if link.startswith("org"):
            (models / link).symlink_to(make_model(tmp_path / "mine"))
        else:
            make_model(tmp_path / "mine" / "tiny")
            (models / "linked").symlink_to(tmp_path / "mine")
        with pytest.raises(ConfigInvalid, match="link"):
            find_removable(link, models)

    def test_model_that_is_being_pulled_stays(self, tmp_path):
        storage = PartialModel.open(tmp_path / "models" / NAME)
        with pytest.raises(ModelBusy):
            remove_model(tmp_path / "models" / NAME)
        storage.close()
        assert (tmp_path / "models" / NAME / JOURNAL_NAME).exists()


def test_header_entries_cover_dtype_and_shape(model, manifest):
    assert {entry.file for entry in manifest.headers} == {
        path.name for path in model.glob("*.safetensors")
    }
    assert dataclasses.replace(manifest, headers=None).manifest_hash != manifest.manifest_hash
