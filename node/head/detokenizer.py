"""Tokens to text one at a time: whole characters only, and nothing past a stop string.

Three small machines. `IncrementalDetokenizer` turns tokens into text that will not change any more,
`StopStrings` keeps back what may turn out to be a stop string, `TextStream` is one after the other.

A token is not a piece of text. In a byte-level vocabulary it is a run of bytes, and a character
may span several tokens: those bytes go through an incremental UTF-8 decoder, which is exact for any
token ids. In other vocabularies a token's text depends on its neighbours (a leading space is
dropped at the start, byte tokens are joined), so a short window is decoded again with each token.
"""

import codecs
from collections.abc import Sequence
from functools import cache
from typing import Protocol

from node.head.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer", "StopStrings", "TextStream"]

HELD_TOKENS_MAX = 32
"""Tokens of an unfinished character before they are shown as they are; a character needs four."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class _Decoder(Protocol):
    def push(self, token: int) -> str: ...

    def flush(self) -> str: ...


class IncrementalDetokenizer:
    """Text of a growing sequence, in pieces whose concatenation is the whole sequence's text.

    Special tokens give nothing. The concatenation equals `Tokenizer.decode` for every sequence of a
    byte-level vocabulary, and for every sequence of whole characters of the others.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._special_ids = tokenizer.special_ids
        self._decoder: _Decoder = (
            _ByteDecoder(tokenizer) if tokenizer.is_byte_level else _WindowDecoder(tokenizer)
        )

    def push(self, token: int) -> str:
        """Text that is complete with this token, perhaps empty; never part of a character."""
        return "" if token in self._special_ids else self._decoder.push(token)

    def flush(self) -> str:
        """The sequence is over: what is left, U+FFFD for a character that never came whole."""
        return self._decoder.flush()


class _ByteDecoder:
    """Byte-level vocabularies: every token is a run of bytes, whatever stands around it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        spelled = self._tokenizer.token_text(token)
        return "" if spelled is None else self._utf8.decode(_token_bytes(spelled))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


def _token_bytes(spelled: str) -> bytes:
    """A token's bytes; one with a character outside the byte alphabet is an added token's text."""
    alphabet = _byte_of_character()
    try:
        return bytes(alphabet[character] for character in spelled)
    except KeyError:
        return spelled.encode("utf-8")


@cache
def _byte_of_character() -> dict[str, int]:
    """The byte alphabet of GPT-2: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


class _WindowDecoder:
    """Other vocabularies: decode the last shown tokens and the held ones, show what is new."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._shown: list[int] = []
        """The tokens of the last piece: the context on which a leading space depends."""
        self._held: list[int] = []

    def push(self, token: int) -> str:
        self._held.append(token)
        piece = self._piece()
        if piece.endswith(_REPLACEMENT) and len(self._held) < HELD_TOKENS_MAX:
            return ""  # a character whose other bytes are still to come
        return self._show(piece)

    def flush(self) -> str:
        return self._show(self._piece())

    def _piece(self) -> str:
        shown = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode(self._shown + self._held)[len(shown) :]

    def _show(self, piece: str) -> str:
        # tokens without text stay held: they may still change what follows
        if piece or len(self._held) >= HELD_TOKENS_MAX:
            self._shown, self._held = self._held, []
        return piece


class StopStrings:
    """Passes text on up to the first stop string, which is left out.

    The stop that is complete first wins, so the result is the same however the text is cut up.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ValueError("An empty stop string would end every answer before it began.")
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Text that cannot belong to a stop string any more; nothing once stopped."""
        if self.is_stopped:
            return ""
        text = self._held + text
        found = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)[1]]
        held_chars = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held_chars :]
        return text[: len(text) - held_chars]

    def flush(self) -> str:
        """The text is over: what was held back was no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop` and not all of it."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class TextStream:
    """An answer's text from its tokens: whole characters, stop strings left out."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._stops = StopStrings(stops)

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string came; the answer is over and later tokens give nothing."""
        return self._stops.is_stopped

    def push(self, token: int) -> str:
        """Text that is certain with this token, perhaps empty."""
        return self._stops.push(self._detokenizer.push(token))

    def flush(self) -> str:
        """The answer is over (end token, length): everything that was still held back."""
        last = self._stops.push(self._detokenizer.flush())
        return last + self._stops.flush()
