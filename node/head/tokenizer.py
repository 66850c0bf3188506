"""Text to token ids and back, for one model directory in the hub's layout.

Everything rests on tokenizer.json and the `tokenizers` library: transformers is never imported.
What comes back token by token is the business of node/head/detokenizer.py.
"""

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from node.errors import ConfigInvalid, PromptInvalid
from node.head.model_files import eos_token_ids, read_bounded, read_chat_template, special_tokens

__all__ = ["PROMPT_CHARS_MAX", "TOKENIZER_BYTES_MAX", "Tokenizer"]

TOKENIZER_BYTES_MAX = 64 * 2**20
"""tokenizer.json: the largest published one (a vocabulary of 262 144) is 33 MiB."""

PROMPT_CHARS_MAX = 16 * 2**20
"""Text of one encode call: four times the text of a context of a million tokens."""


class Tokenizer:
    """A model's vocabulary. Immutable after construction, and safe to use from many threads."""

    def __init__(
        self,
        library: tokenizers.Tokenizer,
        *,
        eos_ids: frozenset[int] = frozenset(),
        special_tokens: dict[str, str] | None = None,
        chat_template: str | None = None,
    ) -> None:
        # a file saved by a trainer may carry its batch settings: neither is ever right for a prompt
        library.no_truncation()
        library.no_padding()
        self._library = library
        self._special_tokens = dict(special_tokens or {})
        self.chat_template = chat_template
        self.special_ids = frozenset(
            token for token, added in library.get_added_tokens_decoder().items() if added.special
        )
        """Ids that are never shown as text."""
        self.eos_ids = eos_ids | self._named_id("eos_token")
        """Ids that end an answer."""

    @classmethod
    def from_directory(cls, directory: Path) -> "Tokenizer":
        """Read tokenizer.json and its neighbours; ConfigInvalid when missing, too big or broken."""
        text = read_bounded(directory / "tokenizer.json", TOKENIZER_BYTES_MAX)
        if text is None:
            raise ConfigInvalid(
                f"The model directory '{directory.name}' has no tokenizer.json.",
                hint="Use a model with a fast tokenizer, or convert its tokenizer.",
            )
        try:
            library = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for whatever does not parse
            raise ConfigInvalid(f"tokenizer.json of the model cannot be used: {error}.") from error
        return cls(
            library,
            eos_ids=eos_token_ids(directory),
            special_tokens=special_tokens(directory),
            chat_template=read_chat_template(directory),
        )

    @property
    def special_tokens(self) -> dict[str, str]:
        """Named special tokens as text, for the chat template; a copy."""
        return dict(self._special_tokens)

    @property
    def vocabulary_size(self) -> int:
        """Token ids with a text, added ones included (a model's logits may be wider)."""
        return self._library.get_vocab_size(with_added_tokens=True)

    @property
    def is_byte_level(self) -> bool:
        """Whether a token is a run of bytes, as in GPT-2's vocabulary and its many heirs."""
        return isinstance(self._library.decoder, tokenizers.decoders.ByteLevel)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`; special tokens written out in it become their ids.

        `add_special_tokens` is False for a rendered chat: its template writes BOS itself.
        CPU-bound, about 1 MB/s; releases the GIL, so a long prompt belongs in a thread.
        Raises PromptInvalid on text that is too long or is not Unicode.
        """
        if len(text) > PROMPT_CHARS_MAX:
            raise PromptInvalid(f"The prompt is longer than {PROMPT_CHARS_MAX} characters.")
        try:
            return self._library.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:  # the library's word for a string that has no UTF-8
            raise PromptInvalid("The prompt holds half a surrogate pair.") from error

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of a whole sequence; bytes that are no UTF-8 become U+FFFD, unknown ids nothing."""
        return self._library.decode(tokens, skip_special_tokens=skip_special_tokens)

    def token_text(self, token: int) -> str | None:
        """A token as the vocabulary spells it (not as text), or None for an id outside it."""
        return self._library.id_to_token(token)

    def _named_id(self, name: str) -> frozenset[int]:
        text = self._special_tokens.get(name)
        token = None if text is None else self._library.token_to_id(text)
        return frozenset() if token is None else frozenset({token})
