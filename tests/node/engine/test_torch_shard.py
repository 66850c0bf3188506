"""Loading a torch shard: what it needs on disk, what it refuses, and by what name."""

import json
import shutil

import pytest

from node.engine.errors import ModelNotFound, ModelUnsupported, ShardMismatch
from node.engine.torch_backend import load
from node.engine.torch_backend.families import MISSING, SERVED
from node.engine.weights import INDEX_NAME
from tests.node.engine.engine_cases import Route, ends_of, spec_of
from tests.node.engine.torch_cases import LAYERS, make_unsplit, prompt_of, torch


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory):
    torch.set_num_threads(1)
    return make_unsplit(tmp_path_factory.mktemp("models"), "llama-untied")


@pytest.fixture
def directory(unsplit, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(unsplit.directory, tmp_path / "model")


def spec(directory, start=0, end=LAYERS, **fields):
    return spec_of(directory, start, end, layers=LAYERS, **fields)


def change_config(directory, **fields):
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps(config))


def weight_map_of(directory):
    return json.loads((directory / INDEX_NAME).read_text())["weight_map"]


class TestFiles:
    def test_only_the_files_of_the_span_need_be_there(self, directory):
        weight_map = weight_map_of(directory)
        needed = {file for name, file in weight_map.items() if ".layers.2." in name}
        for path in directory.glob("*.safetensors"):
            if path.name not in needed:
                path.unlink()
        assert load(spec(directory, 2, 3)).info.weight_bytes > 0
        with pytest.raises(ShardMismatch, match="is missing"):
            load(spec(directory, 2, 4))

    def test_single_file_without_an_index(self, unsplit, tmp_path):
        unsplit.model.save_pretrained(tmp_path / "single")
        assert not (tmp_path / "single" / INDEX_NAME).exists()
        prompt = prompt_of(9)
        shards = [load(spec(tmp_path / "single", 0, 2)), load(spec(tmp_path / "single", 2))]
        assert Route(shards).generate(prompt, 5) == unsplit.generate(prompt, 5)

    def test_tensor_that_the_index_lacks_is_missed(self, directory):
        weight_map = weight_map_of(directory)
        del weight_map["model.layers.1.mlp.up_proj.weight"]
        (directory / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
        # the file still holds it, but a span's tensors are those that the index names
        lost = {name: file for name, file in weight_map.items() if ".layers.1." in name}
        assert lost
        for file in set(weight_map.values()):
            strip_tensor(directory / file, "model.layers.1.mlp.up_proj.weight")
        load(spec(directory, 2, 3))
        with pytest.raises(ShardMismatch, match=r"layers\.1\.mlp\.up_proj"):
            load(spec(directory, 0, 2))

    @pytest.mark.parametrize("file", ["../other.safetensors", "sub/x.safetensors", "x.bin", ".x"])
    def test_index_that_names_no_plain_file_is_refused(self, file, directory):
        weight_map = {**weight_map_of(directory), "model.norm.weight": file}
        (directory / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ShardMismatch, match="no plain weight file"):
            load(spec(directory))

    def test_file_that_is_no_safetensors_file(self, directory):
        for path in directory.glob("*.safetensors"):
            path.write_bytes(b"nonsense")
        with pytest.raises(ShardMismatch, match="could not be read"):
            load(spec(directory))

    def test_no_such_directory_and_no_model_in_it(self, tmp_path):
        with pytest.raises(ModelNotFound):
            load(spec(tmp_path / "nowhere"))
        with pytest.raises(ModelNotFound):
            load(spec(tmp_path))


class TestSpans:
    @pytest.mark.parametrize(
        "fields",
        [
            {"start": 0, "end": LAYERS + 1},
            {"start": 2, "end": 2, "embeds": False, "has_head": False},
            {"start": 1, "end": LAYERS, "embeds": True},
            {"start": 0, "end": 2, "has_head": True},
        ],
    )
    def test_span_that_does_not_fit_is_refused(self, fields, unsplit):
        with pytest.raises(ShardMismatch):
            load(spec(unsplit.directory, **fields))

    def test_foreign_layers_take_no_memory(self, unsplit):
        sizes = [
            load(spec(unsplit.directory, index, index + 1)).info.weight_bytes
            for index in range(1, LAYERS - 1)
        ]
        whole = load(spec(unsplit.directory)).info.weight_bytes
        ends = load(ends_of(unsplit.directory)).info.weight_bytes
        assert ends + LAYERS * sizes[0] == whole
        assert len(set(sizes)) == 1

    def test_load_sets_the_thread_count(self, unsplit):
        load(spec(unsplit.directory, 2, 3, threads=2))
        assert torch.get_num_threads() == 2
        load(spec(unsplit.directory, 2, 3, threads=1))
        assert torch.get_num_threads() == 1


class TestRefusals:
    @pytest.mark.parametrize(
        "family", ["gemma3", "deepseek_v32", "llama4", "qwen3_next", "granitemoe", "minicpm3"]
    )
    def test_family_is_refused_by_name_with_what_is_missing(self, family, directory):
        change_config(directory, model_type=family)
        with pytest.raises(ModelUnsupported) as caught:
            load(spec(directory))
        assert f"'{family}'" in str(caught.value)
        assert MISSING[family] in str(caught.value)

    @pytest.mark.parametrize("family", ["opt", "no-such-family", 7, None])
    def test_unknown_family_is_refused(self, family, directory):
        change_config(directory, model_type=family)
        with pytest.raises(ModelUnsupported):
            load(spec(directory))

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"quantization_config": {"quant_method": "gptq"}}, "stored quantized .'gptq'"),
            ({"quantization_config": {"quant_method": "mxfp4"}}, "stored quantized .'mxfp4'"),
            ({"quantization_config": [4]}, "stored quantized"),
            ({"attn_logit_softcapping": 50.0}, "softcap"),
            ({"residual_multiplier": 0.2}, "residual"),
            ({"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}, "proportional"),
            ({"rope_scaling": {"type": "longrope"}}, "not valid"),
            ({"rope_parameters": [1]}, "not a map"),
            ({"rope_parameters": {"full_attention": [1]}}, "not a map"),
            ({"rope_parameters": {"full_attention": {"rope_type": "longrope"}}}, "longrope"),
            ({"rope_parameters": {"sliding_attention": {"rope_type": 7}}}, "rope type '7'"),
            ({"layer_types": ["linear_attention"] * LAYERS}, "linear_attention"),
            ({"layer_types": "sliding"}, "layers of type"),
            ({"num_hidden_layers": "many"}, "not valid"),
            ({"num_attention_heads": 5}, "not valid"),
        ],
    )
    def test_setting_that_we_do_not_apply_is_refused(self, fields, says, directory):
        change_config(directory, **fields)
        with pytest.raises(ModelUnsupported, match=says):
            load(spec(directory))

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"a": ' * 100_000])
    def test_config_that_is_no_map_is_refused(self, text, directory):
        (directory / "config.json").write_text(text)
        with pytest.raises(ModelUnsupported):
            load(spec(directory))

    def test_what_is_served_and_what_is_missing_do_not_overlap(self):
        assert not SERVED & set(MISSING)


def strip_tensor(path, name):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    if tensors.pop(name, None) is not None:
        save_file(tensors, path, metadata={"format": "pt"})
