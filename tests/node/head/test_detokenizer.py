"""Pieces of text from single tokens: whole characters, no stop string, nothing lost."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.head.detokenizer import IncrementalDetokenizer, StopStrings, TextStream
from node.head.tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TINY = Path(__file__).parents[3] / "node" / "assets" / "piecework-tiny"

scalar_text = st.text(max_size=60)


unhurried = settings(deadline=None)
"""The machine may be busy with other tests."""


def pieces_of(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    stream = IncrementalDetokenizer(tokenizer)
    return [*(stream.push(token) for token in tokens), stream.flush()]


class TestByteLevel:
    @unhurried
    @given(st.lists(st.integers(0, 420), max_size=60))
    def test_any_tokens_give_the_text_of_the_whole(
        self, byte_level: Tokenizer, tokens: list[int]
    ) -> None:
        assert "".join(pieces_of(byte_level, tokens)) == byte_level.decode(tokens)

    @unhurried
    @given(scalar_text)
    def test_no_piece_of_real_text_has_a_broken_character(
        self, byte_level: Tokenizer, text: str
    ) -> None:
        pieces = pieces_of(byte_level, byte_level.encode(text))
        assert "".join(pieces) == text
        assert sum(piece.count(REPLACEMENT) for piece in pieces) == text.count(REPLACEMENT)

    def test_character_of_several_tokens_comes_whole_with_the_last(
        self, byte_level: Tokenizer
    ) -> None:
        tokens = byte_level.encode("🛶")
        assert len(tokens) > 1
        assert pieces_of(byte_level, tokens) == [*[""] * (len(tokens) - 1), "🛶", ""]

    def test_character_cut_off_at_the_end_is_replaced_there_only(
        self, byte_level: Tokenizer
    ) -> None:
        tokens = byte_level.encode("ab🛶")[:-1]
        pieces = pieces_of(byte_level, tokens)
        assert pieces[-1] == REPLACEMENT
        assert REPLACEMENT not in "".join(pieces[:-1])

    def test_special_tokens_are_not_text_and_added_ones_are(self, byte_level: Tokenizer) -> None:
        tokens = byte_level.encode("<|begin|>a<think>two words日本")
        assert "".join(pieces_of(byte_level, tokens)) == "a<think>two words日本"

    @unhurried
    @given(scalar_text)
    def test_vocabulary_of_the_repositorys_model(self, text: str) -> None:
        tokenizer = tiny_tokenizer()
        tokens = tokenizer.encode(text)
        assert "".join(pieces_of(tokenizer, tokens)) == tokenizer.decode(tokens)


class TestByteFallback:
    @unhurried
    @given(scalar_text)
    def test_text_comes_back_whole(self, byte_fallback: Tokenizer, text: str) -> None:
        tokens = byte_fallback.encode(text)
        pieces = pieces_of(byte_fallback, tokens)
        assert "".join(pieces) == byte_fallback.decode(tokens)
        assert sum(piece.count(REPLACEMENT) for piece in pieces) == text.count(REPLACEMENT)

    def test_leading_space_is_dropped_at_the_start_only(self, byte_fallback: Tokenizer) -> None:
        pieces = pieces_of(byte_fallback, byte_fallback.encode("The gulls know"))
        assert "".join(pieces) == "The gulls know"
        assert any(piece.startswith(" ") for piece in pieces)

    @unhurried
    @given(st.lists(st.integers(0, 450), max_size=200))
    def test_any_tokens_give_text_and_hold_little(
        self, byte_fallback: Tokenizer, tokens: list[int]
    ) -> None:
        stream = IncrementalDetokenizer(byte_fallback)
        text = "".join(stream.push(token) for token in tokens) + stream.flush()
        whole = byte_fallback.decode(tokens)
        if REPLACEMENT not in whole:
            assert text == whole

    def test_endless_broken_bytes_are_shown_at_last(self, byte_fallback: Tokenizer) -> None:
        lonely = byte_fallback.encode("\N{CANOE}")[-1]
        stream = IncrementalDetokenizer(byte_fallback)
        assert any(stream.push(lonely) for _ in range(64))


def cut(text: str, lengths: list[int]) -> list[str]:
    """`text` in pieces of these lengths, the rest as the last piece."""
    pieces, start = [], 0
    for length in lengths:
        pieces.append(text[start : start + length])
        start += length
    return [*pieces, text[start:]]


def stopped_by_characters(text: str, stops: list[str]) -> str:
    """The definition: read one character at a time until a stop string is complete."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


letters = st.text(alphabet="abc", max_size=30)


class TestStopStrings:
    @unhurried
    @given(
        letters,
        st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4),
        st.lists(st.integers(0, 5), max_size=12),
    )
    def test_result_is_the_same_however_text_is_cut(
        self, text: str, stops: list[str], lengths: list[int]
    ) -> None:
        machine = StopStrings(stops)
        shown = "".join(machine.push(piece) for piece in cut(text, lengths)) + machine.flush()
        assert shown == stopped_by_characters(text, stops)
        assert machine.is_stopped == any(stop in text for stop in stops)

    def test_only_what_may_begin_a_stop_is_held_back(self) -> None:
        machine = StopStrings(["</answer>"])
        assert machine.push("yes <") == "yes "
        assert machine.push("/ans") == ""
        assert machine.push("were") == "</answere"
        assert machine.push("</answer> and more") == ""
        assert machine.is_stopped
        assert machine.push("later") == ""
        assert machine.flush() == ""

    def test_held_text_comes_out_at_the_end(self) -> None:
        machine = StopStrings(["END"])
        assert machine.push("the EN") == "the "
        assert machine.flush() == "EN"
        assert not machine.is_stopped

    def test_empty_stop_is_our_own_mistake(self) -> None:
        with pytest.raises(ValueError, match="empty stop"):
            StopStrings(["a", ""])


class TestTextStream:
    @unhurried
    @given(scalar_text, st.lists(st.text(min_size=1, max_size=3), max_size=3))
    def test_tokens_to_text_up_to_the_stop(
        self, byte_level: Tokenizer, text: str, stops: list[str]
    ) -> None:
        stream = TextStream(byte_level, stops)
        shown = "".join(stream.push(token) for token in byte_level.encode(text)) + stream.flush()
        assert shown == stopped_by_characters(text, stops)

    def test_stop_across_tokens(self, byte_level: Tokenizer) -> None:
        stream = TextStream(byte_level, ["noon, and"])
        shown = ""
        for token in byte_level.encode("The ferry leaves at noon, and the gulls know it."):
            shown += stream.push(token)
        assert shown == "The ferry leaves at "
        assert stream.is_stopped

    def test_cut_character_can_complete_nothing(self, byte_level: Tokenizer) -> None:
        stream = TextStream(byte_level, [REPLACEMENT])
        for token in byte_level.encode("a🛶")[:-1]:
            stream.push(token)
        assert stream.flush() == ""
        assert stream.is_stopped


_tiny: list[Tokenizer] = []


def tiny_tokenizer() -> Tokenizer:
    if not (TINY / "tokenizer.json").is_file():
        pytest.skip("the trained model is not in this checkout")
    if not _tiny:
        _tiny.append(Tokenizer.from_directory(TINY))
    return _tiny[0]
