"""The random checkpoints of every family, and the trained model that lies in the repository."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

REPOSITORY = Path(__file__).parents[2]
TRAINED = REPOSITORY / "node" / "assets" / "piecework-tiny"
SIZE_BYTES_MAX = 8 * 2**20
ANSWER_TOKENS_MAX = 300


def _load_tool(name: str) -> ModuleType:
    """Import a script of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tiny_checkpoints = _load_tool("tiny_checkpoints")
TINY_FAMILIES = sorted(name for name in tiny_checkpoints.FAMILIES if name != "llama-0.5b")


class TestMakeCheckpoint:
    @pytest.mark.parametrize("family", TINY_FAMILIES)
    def test_family_loads_back_and_steps_once(self, family: str, tmp_path: Path) -> None:
        directory = tiny_checkpoints.make_checkpoint(tmp_path / family, family, layers=3)
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        files = set(index["weight_map"].values())
        assert len(files) > 1
        assert all((directory / name).is_file() for name in files)

        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype="auto", output_loading_info=True
        )
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert model.dtype == torch.float32
        with torch.no_grad():
            logits = model(torch.tensor([[5, 6, 7]])).logits
        assert logits.shape == (1, 3, model.config.vocab_size)
        assert torch.isfinite(logits).all()

    def test_same_seed_gives_same_weights_and_leaves_random_state(self, tmp_path: Path) -> None:
        torch.manual_seed(7)
        state = torch.random.get_rng_state()
        first, again, other = (
            tiny_checkpoints.make_checkpoint(tmp_path / name, layers=1, seed=seed)
            for name, seed in (("first", 3), ("again", 3), ("other", 4))
        )
        assert torch.equal(torch.random.get_rng_state(), state)
        assert _weight_bytes(first) == _weight_bytes(again)
        assert _weight_bytes(first) != _weight_bytes(other)

    def test_fields_and_dtype_can_be_overridden(self, tmp_path: Path) -> None:
        directory = tiny_checkpoints.make_checkpoint(
            tmp_path, "qwen3", layers=2, dtype="bfloat16", hidden_size=96
        )
        config = json.loads((directory / "config.json").read_text())
        assert (config["num_hidden_layers"], config["hidden_size"]) == (2, 96)
        assert config["dtype"] == "bfloat16"

    def test_tokenizer_lies_beside_the_weights(self, tmp_path: Path) -> None:
        directory = tiny_checkpoints.make_checkpoint(tmp_path, "qwen2", layers=1)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        ids = tokenizer.encode("A span: [0, 8) of 1998?")
        assert ids[0] == tokenizer.bos_token_id
        assert max(ids) < 2048
        assert tokenizer.decode(ids, skip_special_tokens=True) == "A span: [0, 8) of 1998?"

    def test_vocabulary_below_the_tokenizers_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="vocab_size 100"):
            tiny_checkpoints.make_checkpoint(tmp_path, "llama", layers=1, vocab_size=100)


class TestTrainedModel:
    def test_directory_is_small_and_in_several_files(self) -> None:
        assert sum(path.stat().st_size for path in TRAINED.iterdir()) <= SIZE_BYTES_MAX
        assert len(list(TRAINED.glob("*.safetensors"))) > 1
        assert (TRAINED / "model.safetensors.index.json").is_file()

    def test_chat_template_takes_system_user_and_assistant(self) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(TRAINED)
        text = tokenizer.apply_chat_template(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": "Bye"},
            ],
            tokenize=False,
            add_generation_prompt=True,
        )
        assert text == (
            "<|begin_of_text|>"
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )

    def test_greedy_answer_is_readable_and_repeatable(self) -> None:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(TRAINED, dtype="auto")
        tokenizer = transformers.AutoTokenizer.from_pretrained(TRAINED)
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What is a span?"}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        prompt_count = inputs["input_ids"].shape[1]
        first, again = (
            model.generate(**inputs, max_new_tokens=ANSWER_TOKENS_MAX)[0, prompt_count:].tolist()
            for _ in range(2)
        )
        assert first == again
        assert first[-1] in model.generation_config.eos_token_id
        text = tokenizer.decode(first, skip_special_tokens=True)
        assert text.isascii()
        assert text.startswith("A span is a range of layers")
        assert text.endswith(".")
        assert len(text.split()) > 20


def _weight_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.safetensors")}
