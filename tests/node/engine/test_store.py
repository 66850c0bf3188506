"""The model store: finding models, naming their exact weights, noticing a changed byte."""

import contextlib
import json
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.errors import ModelNotFound, ModelUnsupported, ShardMismatch, WeightsCorrupt
from node.engine.holdings import layer_bytes, verify_span
from node.engine.store import TINY_MODEL, build_manifest, resolve_model
from node.engine.weights import HEADER_BYTES_MAX, INDEX_NAME, layer_of, read_tensors
from protocol.errors import EngineError
from protocol.model import ENDS, ModelManifest
from protocol.route import Span

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "vocab_size": 16,
    "max_position_embeddings": 64,
}
TENSORS = {
    "a.safetensors": {"model.embed_tokens.weight": 256, "model.layers.0.mlp.up_proj.weight": 128},
    "b.safetensors": {
        "model.layers.0.mlp.down_proj.weight": 64,
        "model.layers.1.mlp.up_proj.weight": 192,
        "model.norm.weight": 16,
    },
}
LAYERS_OF = {
    "model.embed_tokens.weight": ENDS,
    "model.layers.0.mlp.down_proj.weight": 0,
    "model.layers.0.mlp.up_proj.weight": 0,
    "model.layers.1.mlp.up_proj.weight": 1,
    "model.norm.weight": ENDS,
}


def write_weights(path, sizes):
    """A safetensors file of bf16 tensors of the given byte sizes, filled with their own names."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, size in sizes.items():
        header[name] = {
            "dtype": "BF16",
            "shape": [size // 2],
            "data_offsets": [len(data), len(data) + size],
        }
        data += (name.encode() * size)[:size]
    write_header(path, json.dumps(header).encode(), data)


def write_header(path, header, data=b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "models" / "org" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    for file, sizes in TENSORS.items():
        write_weights(folder / file, sizes)
    weight_map = {name: file for file, sizes in TENSORS.items() for name in sizes}
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def flip_byte(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


class TestResolveModel:
    def test_path_and_name(self, directory):
        models = directory.parents[1]
        assert resolve_model(str(directory), models_directory=None) == directory
        assert resolve_model("org/tiny", models_directory=models) == directory

    def test_packaged_model(self):
        directory = resolve_model(TINY_MODEL, models_directory=None)
        assert (directory / "config.json").is_file()

    @pytest.mark.parametrize(
        "reference", ["org/other", "tiny", "", "../org/tiny", "org/../org/tiny", "a/b/c", "org/."]
    )
    def test_unknown_name_tells_what_is_here(self, reference, directory):
        with pytest.raises(ModelNotFound, match="piecework/tiny, org/tiny"):
            resolve_model(reference, models_directory=directory.parents[1])

    def test_models_directory_that_is_not_there(self, tmp_path):
        with pytest.raises(ModelNotFound, match="piecework/tiny"):
            resolve_model("org/tiny", models_directory=tmp_path / "none")


class TestBuildManifest:
    def test_lists_every_tensor_with_its_place(self, directory):
        manifest = build_manifest(directory)
        assert (manifest.name, manifest.family, manifest.dtype) == ("tiny", "llama", "bf16")
        assert (manifest.layers, manifest.hidden_size) == (2, 8)
        assert (manifest.vocabulary_size, manifest.context_tokens) == (16, 64)
        assert {tensor.name: tensor.layer for tensor in manifest.tensors} == LAYERS_OF
        for tensor in manifest.tensors:
            data = (directory / tensor.file).read_bytes()[tensor.start : tensor.end]
            assert data == (tensor.name.encode() * len(data))[: len(data)]

    def test_survives_the_wire_and_is_the_same_each_time(self, directory):
        manifest = build_manifest(directory, "org/tiny")
        assert ModelManifest.decode(manifest.encode()) == manifest
        assert build_manifest(directory, "org/tiny").manifest_hash == manifest.manifest_hash

    def test_any_changed_weight_changes_the_hash(self, directory):
        before = build_manifest(directory).manifest_hash
        flip_byte(directory / "b.safetensors", -1)
        assert build_manifest(directory).manifest_hash != before

    def test_tensor_in_a_file_that_the_index_gives_to_another(self, directory):
        write_weights(
            directory / "a.safetensors", {**TENSORS["a.safetensors"], "model.norm.weight": 16}
        )
        norm = next(t for t in build_manifest(directory).tensors if t.name == "model.norm.weight")
        assert norm.file == "b.safetensors"

    @pytest.mark.parametrize(
        ("front", "licence", "may_be_sold"),
        [
            ("---\nlicense: apache-2.0\n---\n# T", "apache-2.0", True),
            ("---\r\nlicense: MIT # yes\r\n---\r\n", "mit", True),
            ("---\ntags: [x]\nlicense: 'llama3.2'\n---\n", "llama3.2", True),
            ("---\nlicense: bsd-3-clause\n---", "bsd-3-clause", True),
            ("---\nlicense: cc-by-4.0\n---\n", "cc-by-4.0", True),
            ("---\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0", False),
            ("---\nlicense: cc-by-nc-sa-4.0\n---\n", "cc-by-nc-sa-4.0", False),
            ("---\nlicense: other\n---\n", "other", False),
            ("---\nlicense: research-only\n---\n", "research-only", False),
            ("---\nlicense:\n- mit\n---\n", "unknown", False),
            ("# no front matter\nlicense: mit\n", "unknown", False),
            ("---\nlicense_name: mit\n---\n", "unknown", False),
            (None, "unknown", False),
        ],
    )
    def test_licence_decides_about_resale(self, front, licence, may_be_sold, directory):
        if front is not None:
            (directory / "README.md").write_bytes(front.encode())
        manifest = build_manifest(directory)
        assert (manifest.licence, manifest.resale_allowed) == (licence, may_be_sold)

    @pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
    def test_missing_file_is_named(self, missing, directory):
        (directory / missing).unlink()
        with pytest.raises(ModelNotFound, match=missing):
            build_manifest(directory)

    @pytest.mark.parametrize("field", sorted(CONFIG))
    def test_config_without_a_field_names_it(self, field, directory):
        config = {key: value for key, value in CONFIG.items() if key != field}
        (directory / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelUnsupported, match=field):
            build_manifest(directory)

    def test_missing_weight_file_is_named(self, directory):
        (directory / "b.safetensors").unlink()
        with pytest.raises(ShardMismatch, match=r"b\.safetensors"):
            build_manifest(directory)


class TestCache:
    def test_hashing_happens_once(self, directory, tmp_path):
        cache = tmp_path / "cache"
        manifest = build_manifest(directory, cache_directory=cache)
        # same size, same time, other bytes: only who reads the weights would notice
        times = (directory / "a.safetensors").stat()
        flip_byte(directory / "a.safetensors", -1)
        os.utime(directory / "a.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
        assert build_manifest(directory, cache_directory=cache) == manifest
        assert build_manifest(directory) != manifest

    def test_touched_file_renamed_model_and_broken_cache_are_hashed_again(
        self, directory, tmp_path
    ):
        cache = tmp_path / "cache"
        manifest = build_manifest(directory, cache_directory=cache)
        flip_byte(directory / "a.safetensors", -1)
        os.utime(directory / "a.safetensors", ns=(1, 1))
        changed = build_manifest(directory, cache_directory=cache)
        assert changed != manifest
        assert build_manifest(directory, "other", cache_directory=cache).name == "other"
        for path in cache.iterdir():
            path.write_bytes(b"nonsense")
        assert build_manifest(directory, cache_directory=cache) == changed
        assert build_manifest(directory, cache_directory=cache) == changed
        assert {path.suffix for path in cache.iterdir()} == {".manifest"}


class TestVerifySpan:
    def test_whole_model(self, directory):
        verify_span(build_manifest(directory), directory, Span(0, 2), ends=True)

    @pytest.mark.parametrize("name", LAYERS_OF)
    def test_flipped_byte_is_found_where_it_matters(self, name, directory):
        manifest = build_manifest(directory)
        tensor = next(tensor for tensor in manifest.tensors if tensor.name == name)
        flip_byte(directory / tensor.file, tensor.start)
        for span, ends in ((Span(0, 1), False), (Span(1, 2), False), (Span(0, 0), True)):
            holds = ends if tensor.layer == ENDS else tensor.layer in range(span.start, span.end)
            if holds:
                with pytest.raises(WeightsCorrupt, match=name):
                    verify_span(manifest, directory, span, ends)
            else:
                verify_span(manifest, directory, span, ends)

    def test_file_that_is_short_or_gone(self, directory):
        manifest = build_manifest(directory)
        path = directory / "b.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ShardMismatch, match=r"model\.norm"):
            verify_span(manifest, directory, Span(0, 0), ends=True)
        path.unlink()
        with pytest.raises(ShardMismatch, match=r"pull tiny --span 1:2"):
            verify_span(manifest, directory, Span(1, 2), ends=False)

    def test_config_and_tokenizer_belong_to_the_model(self, directory):
        manifest = build_manifest(directory)
        (directory / "tokenizer.json").write_text("[]")
        verify_span(manifest, directory, Span(0, 2), ends=False)
        with pytest.raises(WeightsCorrupt, match="tokenizer"):
            verify_span(manifest, directory, Span(0, 2), ends=True)
        (directory / "config.json").write_text("{}")
        with pytest.raises(WeightsCorrupt, match="config"):
            verify_span(manifest, directory, Span(0, 2), ends=False)


class TestLayerBytes:
    def test_one_size_a_layer(self, directory):
        assert layer_bytes(build_manifest(directory)) == (128 + 64, 192)


class TestReadTensors:
    def test_packaged_model(self):
        directory = resolve_model(TINY_MODEL, models_directory=None)
        manifest = build_manifest(directory, TINY_MODEL)
        verify_span(manifest, directory, Span(0, manifest.layers), ends=True)
        assert all(layer_bytes(manifest))

    @pytest.mark.parametrize(
        ("header", "says"),
        [
            (b"", "no length"),
            (b"[]", "no map"),
            (b"{", "no map"),
            (b'{"x": 1}', "does not place"),
            (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 5]}}', "does not place"),
            (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}', "does not place"),
            (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}', "does not place"),
            (b'{"x": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}}', "does not place"),
            (b'{"x": ' + b"[" * 100_000, "no map"),
        ],
    )
    def test_bad_header_is_refused(self, header, says, tmp_path):
        write_header(tmp_path / "model.safetensors", header, b"1234")
        with pytest.raises(ShardMismatch, match=says):
            read_tensors(tmp_path)

    def test_header_longer_than_the_file_or_the_limit(self, tmp_path):
        for length in (3, HEADER_BYTES_MAX + 1, 2**64 - 1):
            (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
            with pytest.raises(ShardMismatch, match="no length"):
                read_tensors(tmp_path)

    @given(st.binary(max_size=200))
    def test_any_bytes_give_tensors_or_an_engine_error(self, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("any")
        (folder / "model.safetensors").write_bytes(data)
        with contextlib.suppress(EngineError):
            read_tensors(folder)

    @pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": []}', "{}"])
    def test_bad_index_is_refused(self, index, directory):
        (directory / INDEX_NAME).write_text(index)
        with pytest.raises(ShardMismatch, match="not an index"):
            read_tensors(directory)

    def test_tensor_that_no_file_holds_is_named(self, directory):
        write_weights(directory / "a.safetensors", {"model.embed_tokens.weight": 256})
        with pytest.raises(ShardMismatch, match=r"layers\.0\.mlp\.up_proj"):
            read_tensors(directory)


class TestLayerOf:
    @pytest.mark.parametrize(
        ("name", "layer"),
        [
            ("model.layers.17.self_attn.q_proj.weight", 17),
            ("layers.0.x", 0),
            ("model.language_model.layers.3.mlp.experts.9.w1.weight", 3),
            ("lm_head.weight", ENDS),
            ("model.mylayers.3.x", ENDS),
        ],
    )
    def test_number_after_layers(self, name, layer):
        assert layer_of(name) == layer

    def test_number_above_the_limit_is_refused(self):
        with pytest.raises(ModelUnsupported):
            layer_of("model.layers.1024.x")
