"""Text to ids and back, checked against transformers on a vocabulary made on the spot."""

import json
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import ConfigInvalid, PromptInvalid
from node.head import model_files
from node.head.tokenizer import Tokenizer

unhurried = settings(deadline=None)
"""The machine may be busy with other tests."""


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_directory(directory)


@pytest.fixture(scope="module")
def theirs(directory: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(directory)


class TestFromDirectory:
    def test_everything_beside_the_weights_is_read(self, directory: Path) -> None:
        tokenizer = Tokenizer.from_directory(directory)
        assert tokenizer.eos_ids == {1, 7, 8, 9}
        assert tokenizer.special_ids == {0, 1}
        assert tokenizer.special_tokens == {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
        assert tokenizer.chat_template == "{{ messages[0].content }}"
        assert tokenizer.vocabulary_size > 256 + 2 + 3

    def test_template_file_comes_before_the_config(self, directory: Path, tmp_path: Path) -> None:
        for file in directory.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "chat_template.jinja").write_text("from the file")
        assert Tokenizer.from_directory(tmp_path).chat_template == "from the file"

    def test_named_templates_give_the_default(self, tmp_path: Path) -> None:
        named = [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
        assert model_files.read_chat_template(tmp_path) == "b"

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}'])
    def test_broken_tokenizer_is_config_invalid(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ConfigInvalid):
            Tokenizer.from_directory(tmp_path)

    def test_missing_tokenizer_is_config_invalid(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigInvalid, match=r"no tokenizer\.json"):
            Tokenizer.from_directory(tmp_path)

    @pytest.mark.parametrize("text", ["[]", "{", "\udcff", "[" * 100_000])
    def test_broken_neighbour_is_config_invalid(
        self, text: str, directory: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
        (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ConfigInvalid):
            Tokenizer.from_directory(tmp_path)

    def test_file_past_its_bound_is_config_invalid(self, tmp_path: Path) -> None:
        (tmp_path / "some.json").write_text("x" * 11)
        assert model_files.read_bounded(tmp_path / "some.json", 11) == "x" * 11
        with pytest.raises(ConfigInvalid, match="larger than 10 bytes"):
            model_files.read_bounded(tmp_path / "some.json", 10)

    def test_saved_batch_settings_do_not_cut_prompts(self, directory: Path) -> None:
        library = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        library.enable_truncation(3)
        library.enable_padding(length=50)
        tokenizer = Tokenizer(library)
        text = "The ferry leaves at noon"
        assert tokenizer.decode(tokenizer.encode(text)) == text


class TestEncode:
    @unhurried
    @given(text=st.text(max_size=80))
    def test_same_ids_as_transformers(
        self, tokenizer: Tokenizer, theirs: transformers.PreTrainedTokenizerBase, text: str
    ) -> None:
        assert tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False)

    @unhurried
    @given(text=st.text(max_size=80))
    def test_decode_gives_the_text_back(self, tokenizer: Tokenizer, text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_special_tokens_in_text_become_their_ids(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.encode("<|begin|>a")[0] == 0

    def test_half_a_surrogate_pair_is_refused(self, tokenizer: Tokenizer) -> None:
        with pytest.raises(PromptInvalid):
            tokenizer.encode("\ud800")

    def test_id_outside_the_vocabulary_has_no_text(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.token_text(10**6) is None
        assert tokenizer.decode([10**6]) == ""
