"""multistream-select 1.0: both ends of a stream agree which protocol it speaks.

Source: libp2p specs, connections/README.md "multistream-select". A message is an unsigned varint
length and a text that ends with a newline. No I/O. Our initiator is optimistic: it sends the
header, its one proposal and its first data without waiting.
"""

from collections.abc import Callable
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.limits import NAME_BYTES_MAX
from transport.errors import ProtocolNotSupported

__all__ = ["HEADER", "LINE_BYTES_MAX", "NOT_AVAILABLE", "PROPOSALS_MAX", "Initiator", "Responder"]

HEADER: Final = "/multistream/1.0.0"
NOT_AVAILABLE: Final = "na"

LINE_BYTES_MAX: Final = NAME_BYTES_MAX + 1
"""A protocol name and its newline. Fits a varint of two bytes."""

PROPOSALS_MAX: Final = 16
"""How often an initiator may hear `na` and try again before its stream is reset."""

_VARINT_BYTES_MAX: Final = 2


def encode_line(text: str) -> bytes:
    """One message. Raises ValueError for a text that no peer would accept."""
    line = text.encode() + b"\n"
    size = len(line)
    if size > LINE_BYTES_MAX or b"\n" in line[:-1]:
        raise ValueError(f"'{text[:64]}' is not a protocol name.")
    prefix = bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))
    return prefix + line


class _LineReader:
    """Cuts lines off the front of a stream; holds at most one line."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> str | None:
        """The next line without its newline, or None. Raises RemoteProtocolError."""
        size = shift = index = 0
        while True:
            if index == len(self._buffer):
                return None
            byte = self._buffer[index]
            size |= (byte & 0x7F) << shift
            index, shift = index + 1, shift + 7
            if byte < 0x80:
                break
            if index == _VARINT_BYTES_MAX:
                raise RemoteProtocolError("A protocol line is too long.")
        if not 0 < size <= LINE_BYTES_MAX:
            raise RemoteProtocolError(f"A protocol line has 1 to 257 bytes, not {size}.")
        if len(self._buffer) < index + size:
            return None
        line, self._buffer = self._buffer[index : index + size], self._buffer[index + size :]
        if line[-1:] != b"\n":
            raise RemoteProtocolError("A protocol line does not end with a newline.")
        try:
            return line[:-1].decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("A protocol line is not text.") from None

    def take_rest(self) -> bytes:
        rest, self._buffer = self._buffer, b""
        return rest


class Initiator:
    """The side that opened the stream and wants exactly one protocol."""

    __slots__ = ("_has_header", "_lines", "is_agreed", "opening", "protocol")

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.opening = encode_line(HEADER) + encode_line(protocol)
        """To be sent first; the data may follow at once."""
        self.is_agreed = False
        self._lines = _LineReader()
        self._has_header = False

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; returns those that belong to the protocol.

        Raises ProtocolNotSupported or RemoteProtocolError.
        """
        if self.is_agreed:
            return data
        self._lines.feed(data)
        while (line := self._lines.take()) is not None:
            if not self._has_header:
                _check_header(line)
                self._has_header = True
            elif line == self.protocol:
                self.is_agreed = True
                return self._lines.take_rest()
            elif line == NOT_AVAILABLE:
                raise ProtocolNotSupported(f"The peer does not speak '{self.protocol}'.")
            else:
                raise RemoteProtocolError("The peer answered with another protocol.")
        return b""


class Responder:
    """The side that was called; takes the first protocol it knows."""

    __slots__ = ("_answer", "_has_header", "_is_known", "_lines", "_refused_count", "protocol")

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        self.protocol: str | None = None
        """What was agreed on, or None so far."""
        self._answer = b""
        self._is_known = is_known
        self._lines = _LineReader()
        self._has_header = False
        self._refused_count = 0

    @property
    def has_refused(self) -> bool:
        """Whether `na` was said: what follows may be data of an optimistic initiator."""
        return self._refused_count > 0

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; returns those that belong to the protocol.

        What is to be answered, also before an error, is in `take_answer`. Raises
        RemoteProtocolError.
        """
        if self.protocol is not None:
            return data
        self._lines.feed(data)
        while (line := self._lines.take()) is not None:
            if not self._has_header:
                _check_header(line)
                self._has_header = True
                self._answer += encode_line(HEADER)
            elif self._is_known(line):
                self.protocol = line
                self._answer += encode_line(line)
                return self._lines.take_rest()
            elif self._refused_count < PROPOSALS_MAX:
                self._refused_count += 1
                self._answer += encode_line(NOT_AVAILABLE)
            else:
                raise RemoteProtocolError("The peer proposed too many protocols.")
        return b""

    def take_answer(self) -> bytes:
        """What is to be sent now; at most a header and a line per proposal."""
        answer, self._answer = self._answer, b""
        return answer


def _check_header(line: str) -> None:
    if line != HEADER:
        raise RemoteProtocolError("The stream does not begin with multistream-select 1.0.")
