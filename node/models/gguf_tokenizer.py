"""The vocabulary inside a GGUF file, as a tokenizer.json of the `tokenizers` library.

Two kinds are read: `gpt2` (byte-level BPE, cut beforehand by a pattern that the file only names)
and `llama` (SentencePiece BPE with byte fallback, whose merges follow from the pieces' scores).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from node.engine.errors import ModelUnsupported
from node.models.gguf_file import Value

__all__ = ["TokenizerFiles", "read_tokenizer"]

_CONTROL, _USER_DEFINED = 3, 4
"""Of ggml's token types."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS: Mapping[str, str | None] = {
    "llama-bpe": _WORDS % "{1,3}",
    "llama3": _WORDS % "{1,3}",
    "qwen2": _WORDS % "",
    "deepseek-r1-qwen": _WORDS % "",
    "gpt-2": None,
    "default": None,
}
"""How text is cut before merging, by the name in `tokenizer.ggml.pre`; None: GPT-2's own way."""

_NEEDS_NFC = frozenset({"qwen2", "deepseek-r1-qwen"})


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What stands beside a model's weights. `settings` is tokenizer_config.json."""

    tokenizer_json: str
    settings: Mapping[str, Any]
    chat_template: str | None


def read_tokenizer(metadata: Mapping[str, Value]) -> TokenizerFiles:
    """Raises ModelUnsupported for a vocabulary of another kind, or one that does not fit itself."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    match kind:
        case "gpt2":
            tokenizer = _byte_level(metadata, tokens)
        case "llama":
            tokenizer = _sentencepiece(metadata, tokens)
        case _:
            raise ModelUnsupported(
                f"The GGUF file's tokenizer '{str(kind)[:32]}' is not read.",
                hint="Pull the model from the hub, which has its tokenizer.json.",
            )
    _add_special(tokenizer, metadata, tokens)
    named = {name: _token(metadata, name, tokens) for name in ("bos", "eos", "unknown", "padding")}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": named["bos"],
        "eos_token": named["eos"],
        "unk_token": named["unknown"],
        "pad_token": named["padding"],
        "clean_up_tokenization_spaces": False,
    }
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") and named["bos"]:
        bos = named["bos"]
        tokenizer.post_processor = TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B"],
            special_tokens=[(bos, tokens.index(bos))],
        )  # fmt: skip
    template = metadata.get("tokenizer.chat_template")
    return TokenizerFiles(
        tokenizer.to_str(),
        {name: value for name, value in settings.items() if value is not None},
        template if isinstance(template, str) else None,
    )


def _byte_level(metadata: Mapping[str, Value], tokens: Sequence[str]) -> Tokenizer:
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    if pre not in _PATTERNS:
        raise ModelUnsupported(
            f"The GGUF file cuts text by the rules '{pre[:32]}', which are not known here.",
            hint="Pull the model from the hub, which has its tokenizer.json.",
        )
    merges: list[tuple[str, str]] = []
    for merge in _strings(metadata, "tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if any(not set(merge) <= vocabulary.keys() for merge in merges):
        raise ModelUnsupported("The GGUF file's merges do not fit its tokens.")
    # Llama 3 takes a word that is a token as it is, merges or not.
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=pre.startswith("llama")))
    pattern = _PATTERNS[pre]
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])  # fmt: skip
    if pre in _NEEDS_NFC:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: Mapping[str, Value], tokens: Sequence[str]) -> Tokenizer:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ModelUnsupported("The GGUF file's tokens have no scores.")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = _token(metadata, "unknown", tokens) or "<unk>"
    tokenizer = Tokenizer(
        BPE(
            vocabulary,
            _merges(tokens, scores, vocabulary),
            unk_token=unknown if unknown in vocabulary else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    start = [normalizers.Prepend("▁")]
    if not metadata.get("tokenizer.ggml.add_space_prefix", True):
        start = []
    tokenizer.normalizer = normalizers.Sequence([*start, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        *([decoders.Strip(" ", 1, 0)] if start else []),
    ])  # fmt: skip
    return tokenizer


def _merges(
    tokens: Sequence[str], scores: Sequence[Value], vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Every way a token is two others, in the order SentencePiece joins: highest score first."""
    found: list[tuple[float, int, int, tuple[str, str]]] = []
    for token, score in zip(tokens, scores, strict=True):
        if not isinstance(score, int | float):
            raise ModelUnsupported("The GGUF file's scores are not numbers.")
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-score, vocabulary[left], vocabulary[right], (left, right)))
    found.sort()
    return [pair for *_, pair in found]


def _add_special(
    tokenizer: Tokenizer, metadata: Mapping[str, Value], tokens: Sequence[str]
) -> None:
    kinds = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise ModelUnsupported("The GGUF file does not say what kind its tokens are.")
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])


def _strings(metadata: Mapping[str, Value], key: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ModelUnsupported(f"The GGUF file has no list '{key}'.")
    return [str(value) for value in values]


def _token(metadata: Mapping[str, Value], name: str, tokens: Sequence[str]) -> str | None:
    index = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(tokens):
        return None
    return tokens[index]
