"""Small vocabularies made on the spot, and a model directory without weights."""

import json
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers import Tokenizer as Library

from node.head.tokenizer import Tokenizer

TEXTS = [
    "The ferry leaves at noon, and the gulls know it.",
    "Ein Stück, zwei Stücke: das Ganze läuft zu Hause.",
    "日本語の文章も少し。 🙂 emoji and naïve café",
] * 4


def byte_level_library() -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|begin|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    library.add_tokens([AddedToken("<think>"), AddedToken("two words"), AddedToken("日本")])
    return library


def byte_fallback_library() -> Library:
    """In the manner of SentencePiece: ▁ for spaces, byte tokens for unknown characters."""
    library = Library(models.BPE(byte_fallback=True, unk_token="<unk>"))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    library.train_from_iterator(
        [text.encode("ascii", "ignore").decode() for text in TEXTS],
        trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False),
    )
    # the trainer can only add byte tokens as special ones; in real files they are plain vocabulary
    saved = json.loads(library.to_str())
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["id"] < 3]
    return Library.from_str(json.dumps(saved))


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    return Tokenizer(byte_level_library())


@pytest.fixture(scope="session")
def byte_fallback() -> Tokenizer:
    return Tokenizer(byte_fallback_library())


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory without weights."""
    path = tmp_path_factory.mktemp("model")
    byte_level_library().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|begin|>",
                "eos_token": {"content": "<|end|>", "__type": "AddedToken"},
                "chat_template": "{{ messages[0].content }}",
            }
        )
    )
    (path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [8, 9]}))
    return path
