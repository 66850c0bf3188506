"""What a relay says on a HOP stream before the bytes of the circuit: yes to HOP, and a STATUS.

Sans-IO. The caller does not wait for it: his Noise message follows CONNECT at once, the relay keeps
it in the stream until the called peer has accepted, and answers are read where the circuit is read.
"""

from protocol.errors import RemoteProtocolError
from transport.control.circuit_messages import (
    HopMessage,
    HopType,
    Status,
    split_message,
    status_text,
)
from transport.errors import RelayRefused
from transport.multistream import Initiator

__all__ = ["CircuitAnswer", "check_granted"]


class CircuitAnswer:
    """Fed with what is received until `is_over`."""

    def __init__(self, initiator: Initiator | None, failure: str) -> None:
        """`initiator`: HOP's, if the relay has not agreed yet. `failure` begins its refusal."""
        self.is_over = False
        self._initiator = initiator
        self._failure = failure
        self._buffer = b""

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; returns those of the circuit.

        Raises ProtocolNotSupported, RelayRefused, or RemoteProtocolError.
        """
        if self.is_over:
            return data
        if not data:
            raise RemoteProtocolError("The relay ended the stream without an answer.")
        self._buffer += data if self._initiator is None else self._initiator.feed(data)
        if (split := split_message(self._buffer)) is None:
            return b""
        check_granted(HopMessage.decode(split[0]), self._failure)
        self.is_over, self._buffer = True, b""
        return split[1]


def check_granted(answer: HopMessage, failure: str) -> None:
    """Raises RelayRefused, beginning with `failure`, or RemoteProtocolError."""
    if answer.type is not HopType.STATUS or answer.status is None:
        raise RemoteProtocolError("A relay answers with a status.")
    if answer.status != Status.OK:
        raise RelayRefused(f"{failure}: {status_text(answer.status)}.", answer.status)
