"""Draft models of another tokenizer are refused, with the token that shows it."""

import json

import pytest

from node.errors import ConfigInvalid
from node.head.drafting.vocabulary import check_same_tokenizer
from node.head.tokenizer import Tokenizer


def changed(directory, tmp_path, change):
    """A copy of the tokenizer with a change in its vocabulary."""
    saved = json.loads((directory / "tokenizer.json").read_text())
    change(saved)
    copy = tmp_path / "draft"
    copy.mkdir()
    (copy / "tokenizer.json").write_text(json.dumps(saved))
    return copy


def test_the_same_vocabulary_is_taken_however_its_file_is_written(directory, tmp_path):
    copy = changed(directory, tmp_path, lambda saved: saved.update(truncation=None))
    check_same_tokenizer(copy, Tokenizer.from_directory(directory))


def test_a_token_of_another_text_is_named(directory, tmp_path):
    def swap(saved):
        tokens = saved["model"]["vocab"]
        one, other = (next(t for t, i in tokens.items() if i == wanted) for wanted in (40, 41))
        tokens[one], tokens[other] = tokens[other], tokens[one]

    copy = changed(directory, tmp_path, swap)
    with pytest.raises(ConfigInvalid, match=r"'draft'.*token 40 is .* there and .* here") as caught:
        check_same_tokenizer(copy, Tokenizer.from_directory(directory))
    assert "same family" in caught.value.hint


def test_a_token_more_is_a_difference(directory, tmp_path):
    copy = changed(directory, tmp_path, lambda saved: saved["added_tokens"].pop())
    with pytest.raises(ConfigInvalid, match="missing there"):
        check_same_tokenizer(copy, Tokenizer.from_directory(directory))


def test_a_directory_without_a_tokenizer_is_no_draft_model(directory, tmp_path):
    with pytest.raises(ConfigInvalid, match=r"tokenizer\.json"):
        check_same_tokenizer(tmp_path, Tokenizer.from_directory(directory))
