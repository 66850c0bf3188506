import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from transport.errors import ProtocolNotSupported
from transport.multistream import PROPOSALS_MAX, Initiator, Responder, encode_line

ECHO = "/test/echo/1"
HEADER_LINE = b"\x13/multistream/1.0.0\n"
ECHO_LINE = b"\x0d/test/echo/1\n"
NA_LINE = b"\x03na\n"


def responder() -> Responder:
    return Responder(lambda protocol: protocol == ECHO)


class TestEncodeLine:
    def test_line_is_a_varint_length_and_a_newline(self):
        assert encode_line("/multistream/1.0.0") == HEADER_LINE
        assert encode_line("x" * 200) == b"\xc9\x01" + b"x" * 200 + b"\n"

    @pytest.mark.parametrize("text", ["x" * 257, "a\nb"])
    def test_text_that_no_peer_would_take_is_refused(self, text):
        with pytest.raises(ValueError, match="not a protocol name"):
            encode_line(text)


class TestInitiator:
    def test_opens_with_header_and_proposal_at_once(self):
        assert Initiator(ECHO).opening == HEADER_LINE + ECHO_LINE

    def test_returns_what_follows_the_agreement(self):
        initiator = Initiator(ECHO)
        assert initiator.feed(HEADER_LINE + ECHO_LINE[:4]) == b""
        assert not initiator.is_agreed
        assert initiator.feed(ECHO_LINE[4:] + b"data") == b"data"
        assert initiator.is_agreed
        assert initiator.feed(b"more") == b"more"

    def test_na_is_protocol_not_supported(self):
        with pytest.raises(ProtocolNotSupported, match="/test/echo/1"):
            Initiator(ECHO).feed(HEADER_LINE + NA_LINE)

    def test_another_protocol_than_asked_for_is_refused(self):
        with pytest.raises(RemoteProtocolError, match="another protocol"):
            Initiator(ECHO).feed(HEADER_LINE + encode_line("/other"))

    def test_answer_without_header_is_refused(self):
        with pytest.raises(RemoteProtocolError, match="multistream"):
            Initiator(ECHO).feed(ECHO_LINE)


class TestResponder:
    def test_agrees_and_passes_optimistic_data_on(self):
        side = responder()
        assert side.feed(HEADER_LINE + ECHO_LINE + b"data") == b"data"
        assert side.protocol == ECHO
        assert side.take_answer() == HEADER_LINE + ECHO_LINE
        assert side.take_answer() == b""
        assert side.feed(b"more") == b"more"

    def test_says_na_and_takes_the_next_proposal(self):
        side = responder()
        side.feed(HEADER_LINE + encode_line("/other"))
        assert side.has_refused
        side.feed(ECHO_LINE)
        assert side.take_answer() == HEADER_LINE + NA_LINE + ECHO_LINE

    def test_na_is_said_even_if_nonsense_follows_at_once(self):
        side = responder()
        with pytest.raises(RemoteProtocolError):
            side.feed(HEADER_LINE + encode_line("/other") + b"\xff" * 50)
        assert side.take_answer() == HEADER_LINE + NA_LINE

    def test_proposals_are_bounded(self):
        side = responder()
        side.feed(HEADER_LINE + encode_line("/other") * PROPOSALS_MAX)
        with pytest.raises(RemoteProtocolError, match="too many"):
            side.feed(encode_line("/other"))

    @pytest.mark.parametrize(
        ("wire", "reason"),
        [
            (b"\xff\xff\x01", "too long"),
            (b"\x00", "1 to 257 bytes, not 0"),
            (b"\x82\x02", "1 to 257 bytes, not 258"),
            (b"\x02ab", "newline"),
            (b"\x03\xff\xff\n", "not text"),
            (ECHO_LINE, "does not begin"),
        ],
    )
    def test_malformed_line_is_refused(self, wire, reason):
        with pytest.raises(RemoteProtocolError, match=reason):
            responder().feed(wire)

    @given(st.binary(max_size=400), st.data())
    def test_both_sides_agree_under_any_chunking(self, payload, data):
        initiator, side = Initiator(ECHO), responder()
        wire, received, answers = initiator.opening + payload, b"", b""
        while wire:
            size = data.draw(st.integers(1, len(wire)))
            received += side.feed(wire[:size])
            answers, wire = answers + side.take_answer(), wire[size:]
        assert received == payload
        wire = answers + payload
        received = b""
        while wire:
            size = data.draw(st.integers(1, len(wire)))
            received += initiator.feed(wire[:size])
            wire = wire[size:]
        assert received == payload

    @given(st.lists(st.binary(max_size=300), max_size=10), st.booleans())
    def test_arbitrary_bytes_raise_nothing_unexpected(self, chunks, has_header):
        for side in (Initiator(ECHO), responder()):
            try:
                if has_header:
                    side.feed(HEADER_LINE)
                for chunk in chunks:
                    side.feed(chunk)
            except (RemoteProtocolError, ProtocolNotSupported):
                pass
