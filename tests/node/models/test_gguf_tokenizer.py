import io

import pytest
from tokenizers import Tokenizer

from node.engine.errors import ModelUnsupported
from node.models.gguf_tokenizer import read_tokenizer

TEXTS = [
    "A span is a half-open range of layers.",
    "the head embeds, and the hops carry activations",
    "Ünïcode: 世界 😀 and tabs\tand  two spaces",
    " leading space",
]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


@pytest.fixture(scope="module")
def sentencepiece():
    """A small SentencePiece BPE with byte fallback, as Llama 2 and Mistral have."""
    library = pytest.importorskip("sentencepiece", reason="nothing to compare with")
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:2] * 20), model_writer=model, model_type="bpe",
        vocab_size=330, byte_fallback=True, character_coverage=1.0, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    return library.SentencePieceProcessor(model_proto=model.getvalue())


def metadata_of(processor):
    ids = range(processor.get_piece_size())

    def kind(index):
        if processor.is_unknown(index):
            return UNKNOWN
        if processor.is_control(index):
            return CONTROL
        return BYTE if processor.is_byte(index) else NORMAL

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(index) for index in ids],
        "tokenizer.ggml.scores": [processor.get_score(index) for index in ids],
        "tokenizer.ggml.token_type": [kind(index) for index in ids],
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.unknown_token_id": processor.unk_id(),
    }


class TestSentencePiece:
    @pytest.mark.parametrize("text", TEXTS)
    def test_cuts_text_as_the_library_does(self, sentencepiece, text):
        files = read_tokenizer(metadata_of(sentencepiece))
        ours = Tokenizer.from_str(files.tokenizer_json)
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == sentencepiece.encode(text)
        assert ours.decode(ids) == text

    def test_begins_with_bos(self, sentencepiece):
        files = read_tokenizer(metadata_of(sentencepiece))
        ids = Tokenizer.from_str(files.tokenizer_json).encode("a hop").ids
        assert ids[0] == sentencepiece.bos_id()
        assert files.settings["eos_token"] == "</s>"

    def test_tokens_without_scores_are_refused(self, sentencepiece):
        metadata = {**metadata_of(sentencepiece), "tokenizer.ggml.scores": [0.0]}
        with pytest.raises(ModelUnsupported, match="scores"):
            read_tokenizer(metadata)


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ModelUnsupported, match="'rwkv'"):
        read_tokenizer({"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.tokens": ["a"]})


def test_merges_of_tokens_that_are_not_there_are_refused():
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.merges": ["a c"],
        "tokenizer.ggml.token_type": [1, 1],
    }
    with pytest.raises(ModelUnsupported, match="merges"):
        read_tokenizer(metadata)
