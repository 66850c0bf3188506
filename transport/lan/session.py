"""What one verified connection keeps alive: its LAN streams end when it does."""

from protocol.identity import PeerId
from transport.errors import PeerGone
from transport.lan.stream import LanStream

__all__ = ["LanSession"]


class LanSession:
    """The streams that lean on one control stream of `/piecework/lan/1`, at either end."""

    def __init__(self, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self.is_over = False
        self._streams: set[LanStream] = set()

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    def add(self, stream: LanStream) -> None:
        if self.is_over:
            stream.drop(_gone())
        else:
            self._streams.add(stream)

    def discard(self, stream: LanStream) -> None:
        self._streams.discard(stream)

    def end(self) -> None:
        """The connection is over, or one of us wants no fast path any more."""
        self.is_over = True
        for stream in list(self._streams):
            stream.drop(_gone())
        self._streams.clear()


def _gone() -> PeerGone:
    return PeerGone("The connection that vouched for this LAN stream is over.")
