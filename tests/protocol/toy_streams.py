"""Streams in memory: in order, of any delay, and they end. Nothing moves until it is delivered."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from protocol.errors import LocalProtocolError
from protocol.frame import Frame, decode_frame, encode_frame


class Party(Protocol):
    """Who reads streams: a head or a hop."""

    @property
    def is_listening(self) -> bool:
        """Whether it is there, and not stalled."""


class End:
    """One party's side of a stream, and what has been sent to it and is not delivered yet."""

    def __init__(self, owner: Party) -> None:
        self.owner = owner
        self.other: End = self
        self.inbox: deque[bytes] = deque()
        self.take: Callable[[Frame | None], None] = _nobody
        """Set by the owner: gets every frame, and None when the other side has ended."""
        self.reads: Callable[[], bool] = _always
        """Set by the owner: whether it takes frames now."""
        self.is_link = False
        """Whether it carries rows, and not what a head and a hop tell one another."""
        self.is_tampered = False
        """Whether what it gets has been meddled with: its sender may be blamed for it."""
        self._is_ending = False
        self.is_over = False
        """The end has been delivered, or this side has closed: nothing follows."""

    def send(self, frame: Frame) -> None:
        if not self.other.is_over and not self.other._is_ending:
            self.other.inbox.append(b"".join(encode_frame(frame)))

    def close(self) -> None:
        """No more from this side; the other reads what has been sent, then the end."""
        self.is_over = True
        self.inbox.clear()
        self.other._is_ending = True

    def lose(self, keep: int) -> None:
        """Of what was under way to this side, only so many frames arrive before the end."""
        while len(self.inbox) > keep:
            self.inbox.pop()
        self._is_ending = True

    @property
    def can_deliver(self) -> bool:
        if self.is_over or not self.owner.is_listening or not self.reads():
            return False
        return bool(self.inbox) or self._is_ending

    def deliver(self) -> None:
        if not self.inbox:
            self.is_over = True
            self.take(None)
            return
        frame = decode_frame(self.inbox.popleft())
        assert frame is not None
        self.take(frame)


def stream(opener: Party, accepter: Party) -> tuple[End, End]:
    near, far = End(opener), End(accepter)
    near.other, far.other = far, near
    return near, far


def _nobody(frame: Frame | None) -> None:
    raise LocalProtocolError(f"Nobody reads this stream: {frame}.")


def _always() -> bool:
    return True
