import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.limits import LAYERS_MAX
from protocol.model import ENDS, HeaderEntry, ModelManifest, TensorEntry
from protocol.record import RECORD_BYTES_MAX
from protocol.route import Span
from tests.protocol.samples import MANIFEST, digest

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "manifest.json").read_text())
TENSOR = MANIFEST.tensors[1]


class TestModelManifest:
    def test_is_what_the_vector_says(self):
        assert MANIFEST.encode().hex() == VECTOR["encoded"]
        assert MANIFEST.manifest_hash.hex() == VECTOR["manifest_hash"]
        assert ModelManifest.decode(bytes.fromhex(VECTOR["encoded"])) == MANIFEST

    def test_may_be_larger_than_a_record(self):
        tensors = tuple(
            dataclasses.replace(TENSOR, name=f"model.layers.{layer}.weight", layer=layer)
            for layer in range(LAYERS_MAX)
        )
        large = dataclasses.replace(MANIFEST, tensors=tensors)
        assert len(large.encode()) > RECORD_BYTES_MAX
        assert ModelManifest.decode(large.encode()) == large

    @given(st.binary(max_size=200))
    def test_refuses_arbitrary_bytes(self, data):
        with pytest.raises(RemoteProtocolError):
            ModelManifest.decode(data)

    @pytest.mark.parametrize(
        "change",
        [
            {"name": ""},
            {"name": "é" * 129},
            {"layers": 0},
            {"layers": LAYERS_MAX + 1},
            {"hidden_size": 0},
            {"vocabulary_size": 0},
            {"context_tokens": 0},
            {"config_sha256": b"short"},
            {"tokenizer_sha256": bytes(33)},
        ],
        ids=str,
    )
    def test_refuses_impossible_models(self, change):
        with pytest.raises(RemoteProtocolError):
            dataclasses.replace(MANIFEST, **change)

    def test_any_change_is_another_model(self):
        for change in ({"name": "other"}, {"tensors": MANIFEST.tensors[:2]}, {"dtype": "bf16"}):
            other = dataclasses.replace(MANIFEST, **change)
            assert other.manifest_hash != MANIFEST.manifest_hash

    def test_size_is_that_of_the_span_and_the_ends_where_asked(self):
        assert MANIFEST.size_bytes(Span(0, 1)) == 200
        assert MANIFEST.size_bytes(Span(0, 2)) == 600
        assert MANIFEST.size_bytes(Span(0, 2), ends=True) == 700
        assert MANIFEST.size_bytes(Span(1, 1)) == 0


class TestTensorEntry:
    @pytest.mark.parametrize(
        "change",
        [
            {"layer": ENDS - 1},
            {"layer": LAYERS_MAX},
            {"start": -1},
            {"start": 301},
            {"sha256": b"short"},
            {"file": ""},
            {"file": "../weights"},
            {"file": "/etc/passwd"},
            {"file": "folder/weights"},
            {"file": "folder\\weights"},
            {"file": ".hidden"},
        ],
        ids=str,
    )
    def test_refuses_ranges_and_file_names_that_lead_astray(self, change):
        with pytest.raises(RemoteProtocolError):
            dataclasses.replace(TENSOR, **change)

    def test_size_is_the_length_of_its_range(self):
        assert TensorEntry("a", ENDS, "f", 5, 9, digest("a")).size_bytes == 4


class TestHeaderEntry:
    HEADER = HeaderEntry("model.safetensors", 100, digest("header"))

    def test_a_manifest_with_headers_survives_the_wire_and_is_another_model(self):
        manifest = dataclasses.replace(MANIFEST, headers=(self.HEADER,))
        assert ModelManifest.decode(manifest.encode()) == manifest
        assert manifest.manifest_hash != MANIFEST.manifest_hash

    @pytest.mark.parametrize(
        "change", [{"size_bytes": 0}, {"sha256": b"short"}, {"file": "../x"}], ids=str
    )
    def test_refuses_headers_of_nothing(self, change):
        with pytest.raises(RemoteProtocolError):
            dataclasses.replace(self.HEADER, **change)
