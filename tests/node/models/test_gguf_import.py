import json
import struct

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch backend is not installed")
pytest.importorskip("gguf", reason="the torch extra brings it")

from node.engine.errors import ModelUnsupported
from node.engine.store import TINY_MODEL, build_manifest, resolve_model
from node.engine.torch_backend import load
from node.head.tokenizer import Tokenizer
from node.models.gguf_config import LLAMA3_ORIGINAL_CONTEXT, hub_config
from node.models.gguf_file import read_gguf
from node.models.gguf_import import import_gguf
from tests.node.engine.engine_cases import Route, spec_of
from tests.node.models.gguf_cases import permute, quantize_q4_k, write_gguf
from tools.tiny_checkpoints import make_checkpoint

TEXT = "A span is a half-open range of layers.\n  It isn't a hop, is it? Ünïcode too: 世界 😀"
PROMPT = [0, 100, 200, 300, 400, 500]
MATRIX_ERROR_MAX = {"F16": 0.0005, "Q8_0": 0.006, "Q4_K": 0.08}
"""Relative error of a matrix: an fp16 mantissa, 8 bits of a block's range, 4 bits of it."""


@pytest.fixture(scope="module")
def tiny():
    return resolve_model(TINY_MODEL, models_directory=None)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Large enough for the blocks of Q4_K; plain rope, which every GGUF can say."""
    folder = tmp_path_factory.mktemp("llama")
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return make_checkpoint(
        folder,
        "llama",
        layers=2,
        hidden_size=256,
        head_dim=64,
        intermediate_size=256,
        rope_parameters=rope,
    )


def greedy(directory, layers, count=24):
    return Route([load(spec_of(directory, 0, layers, layers=layers))]).generate(PROMPT, count)


class TestImport:
    def test_an_fp16_file_gives_the_models_own_tokens(self, tiny, tmp_path):
        import_gguf(write_gguf(tmp_path / "tiny.gguf", tiny), tmp_path / "tiny")
        assert greedy(tmp_path / "tiny", 8) == greedy(tiny, 8)

    @pytest.mark.parametrize("family", ["qwen2", "qwen3"])
    def test_other_families_keep_their_rows_in_order(self, family, tmp_path):
        original = make_checkpoint(tmp_path / "original", family, layers=2)
        path = write_gguf(tmp_path / "model.gguf", original, kind="F32")
        import_gguf(path, tmp_path / "model")
        assert greedy(tmp_path / "model", 2) == greedy(original, 2)

    @pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_K"])
    def test_weights_are_near_the_original(self, kind, llama, tmp_path):
        from transformers import AutoModelForCausalLM

        import_gguf(write_gguf(tmp_path / "model.gguf", llama, kind), tmp_path / "model")
        original = AutoModelForCausalLM.from_pretrained(llama).float().state_dict()
        imported = AutoModelForCausalLM.from_pretrained(tmp_path / "model").float().state_dict()
        assert original.keys() == imported.keys()
        for name, tensor in original.items():
            error = (imported[name] - tensor).norm() / tensor.norm()
            assert error <= MATRIX_ERROR_MAX[kind], (name, float(error))

    def test_the_directory_is_a_model_like_any_other(self, tiny, tmp_path):
        import_gguf(write_gguf(tmp_path / "tiny.gguf", tiny), tmp_path / "tiny")
        manifest = build_manifest(tmp_path / "tiny")
        assert (manifest.family, manifest.layers, manifest.licence) == ("llama", 8, "apache-2.0")
        assert manifest.dtype == "fp16"

    def test_the_tokenizer_is_the_models(self, tiny, tmp_path):
        import_gguf(write_gguf(tmp_path / "tiny.gguf", tiny), tmp_path / "tiny")
        imported, own = (Tokenizer.from_directory(d) for d in (tmp_path / "tiny", tiny))
        assert imported.encode(TEXT) == own.encode(TEXT)
        assert imported.decode(imported.encode(TEXT)) == TEXT
        assert imported.chat_template == own.chat_template
        assert 4 in imported.eos_ids
        assert imported.special_ids == own.special_ids


class TestRefusals:
    def test_other_architectures_by_name(self, tiny, tmp_path):
        path = write_gguf(tmp_path / "x.gguf", tiny, **{"llama.expert_count": 8})
        with pytest.raises(ModelUnsupported, match="experts"):
            import_gguf(path, tmp_path / "x")
        assert [entry.name for entry in tmp_path.iterdir()] == ["x.gguf"]

    def test_an_unknown_way_to_cut_text(self, tiny, tmp_path):
        path = write_gguf(tmp_path / "x.gguf", tiny)
        data = path.read_bytes().replace(b"llama-bpe", b"llama-foo")
        path.write_bytes(data)
        with pytest.raises(ModelUnsupported, match="llama-foo"):
            import_gguf(path, tmp_path / "x")

    def test_a_truncated_file_leaves_nothing(self, tiny, tmp_path):
        path = write_gguf(tmp_path / "x.gguf", tiny)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ModelUnsupported, match="passes the end"):
            import_gguf(path, tmp_path / "x")
        assert not (tmp_path / "x").exists()

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"GGML" + bytes(20),
            b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0),
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**50),
            # an array of 2**20 arrays
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 9, 2**20),
            # an array of a billion bytes in a file of a few
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**30),
        ],
    )
    def test_absurd_headers_end_at_once(self, header, tmp_path):
        (tmp_path / "x.gguf").write_bytes(header)
        with pytest.raises(ModelUnsupported):
            read_gguf(tmp_path / "x.gguf")

    def test_a_directory_that_is_there_is_left_alone(self, tiny, tmp_path):
        path = write_gguf(tmp_path / "tiny.gguf", tiny)
        (tmp_path / "tiny").mkdir()
        with pytest.raises(ModelUnsupported, match="already"):
            import_gguf(path, tmp_path / "tiny")


def llama3_factors(head_dim, theta, factor):
    """As llama.cpp's converter computes `rope_freqs`."""
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (LLAMA3_ORIGINAL_CONTEXT / wavelengths - 1) / 3
    blended = 1 / ((1 - smooth) / factor + smooth)
    low = wavelengths > LLAMA3_ORIGINAL_CONTEXT
    return np.where(low, factor, np.where(wavelengths < LLAMA3_ORIGINAL_CONTEXT / 4, 1, blended))


METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 131072,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500000.0,
}


class TestConfig:
    @pytest.mark.parametrize("factor", [8.0, 32.0])
    def test_llama3_rope_is_found_from_its_factors(self, factor):
        freqs = llama3_factors(64, 500000.0, factor).tolist()
        config = hub_config(METADATA, vocabulary_size=99, is_tied=True, rope_freqs=freqs)
        assert config["rope_parameters"] == {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": pytest.approx(factor),
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }  # fmt: skip

    def test_other_factors_are_refused(self):
        with pytest.raises(ModelUnsupported, match="rope factors"):
            hub_config(METADATA, vocabulary_size=9, is_tied=True, rope_freqs=[1.0, 5.0] * 16)

    def test_a_missing_number_is_named(self):
        less = {key: value for key, value in METADATA.items() if "block_count" not in key}
        with pytest.raises(ModelUnsupported, match=r"llama\.block_count"):
            hub_config(less, vocabulary_size=9, is_tied=True, rope_freqs=None)

    def test_yarn(self):
        more = {
            "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
            "llama.rope.scaling.original_context_length": 4096,
        }  # fmt: skip
        rope = hub_config(METADATA | more, vocabulary_size=9, is_tied=True, rope_freqs=None)
        assert rope["rope_parameters"]["original_max_position_embeddings"] == 4096


def test_the_encoder_of_these_tests_is_sane():
    rows = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    back = dequantize(quantize_q4_k(rows), GGMLQuantizationType.Q4_K)
    assert np.linalg.norm(back - rows) / np.linalg.norm(rows) < MATRIX_ERROR_MAX["Q4_K"]


def test_permutation_is_llamas():
    rows = np.arange(8)
    assert permute(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_config_is_json(tiny, tmp_path):
    import_gguf(write_gguf(tmp_path / "tiny.gguf", tiny), tmp_path / "tiny")
    assert json.loads((tmp_path / "tiny" / "config.json").read_text())["vocab_size"] == 2048
