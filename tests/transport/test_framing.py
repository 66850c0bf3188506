import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import FrameTooLarge
from transport.framing import FrameReader, encode_length

LIMIT = 1000


def encode(frames: list[bytes]) -> bytes:
    return b"".join(encode_length(len(frame)) + frame for frame in frames)


def take_all(reader: FrameReader) -> list[bytes]:
    frames = []
    while (frame := reader.take()) is not None:
        frames.append(frame)
    return frames


class TestFrameReader:
    def test_the_prefix_is_four_bytes_big_endian(self):
        assert encode_length(0x01020304) == b"\x01\x02\x03\x04"

    def test_frame_of_the_limit_passes_and_one_byte_more_does_not(self):
        reader = FrameReader(LIMIT)
        reader.feed(encode([b"x" * LIMIT]))
        assert reader.take() == b"x" * LIMIT
        with pytest.raises(FrameTooLarge):
            reader.feed(encode_length(LIMIT + 1))

    def test_nothing_of_a_too_large_frame_is_kept(self):
        reader = FrameReader(LIMIT)
        with pytest.raises(FrameTooLarge):
            reader.feed(encode([b"before"]) + encode_length(2**32 - 1) + b"x" * 500)
        assert reader.take() == b"before"
        assert reader.buffered_bytes == 0

    def test_a_frame_that_has_begun_is_noticed(self):
        reader = FrameReader(LIMIT)
        assert reader.is_between_frames
        reader.feed(b"\0")
        assert not reader.is_between_frames
        reader.feed(b"\0\0\1x")
        assert reader.is_between_frames
        assert reader.frame_count == 1

    def test_large_frame_in_small_pieces_is_not_copied_again_and_again(self):
        size = 16 * 1024 * 1024
        reader = FrameReader(size)
        reader.feed(encode_length(size))
        piece = b"x" * 1024
        for _ in range(size // 1024):
            reader.feed(piece)
        frame = reader.take()
        assert frame is not None
        assert len(frame) == size
        assert reader.buffered_bytes == 0

    @given(st.lists(st.binary(max_size=60), max_size=30), st.data())
    def test_frames_survive_any_chunking_and_any_order_of_reading(self, frames, data):
        wire = encode(frames)
        reader, got = FrameReader(LIMIT), []
        while wire:
            size = data.draw(st.integers(1, len(wire)))
            reader.feed(wire[:size])
            wire = wire[size:]
            if data.draw(st.booleans()):
                got += take_all(reader)
        assert got + take_all(reader) == frames
        assert reader.is_between_frames

    @given(st.lists(st.binary(max_size=200), max_size=20))
    def test_arbitrary_bytes_raise_nothing_but_frame_too_large(self, chunks):
        reader = FrameReader(LIMIT)
        try:
            for chunk in chunks:
                reader.feed(chunk)
                assert all(len(frame) <= LIMIT for frame in take_all(reader))
                assert reader.buffered_bytes <= LIMIT + 4
        except FrameTooLarge:
            assert reader.buffered_bytes == 0 or reader.frame_count
