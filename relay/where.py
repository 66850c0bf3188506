"""Say where the UDP side is: `/piecework/where/1` (protocol/relay_messages.py)."""

from protocol.relay_messages import Where
from relay.errors import RequestRefused
from relay.requests import RequestGate
from transport.control.base import ControlStream
from transport.control.messages import write_message

__all__ = ["WhereService"]


class WhereService:
    """Made by the composition root, which sets `serve` as the handler of WHERE_PROTOCOL."""

    def __init__(self, gate: RequestGate, *, host: str, ports: tuple[int, ...]) -> None:
        """`host` as announced; empty: where the asker reached the relay."""
        self._gate = gate
        self._answer = Where(host, ports).encode()

    async def serve(self, stream: ControlStream) -> None:
        try:
            self._gate.admit(stream.peer_id)
        except RequestRefused as refused:
            self._gate.refused(refused)
            await stream.reset()
        else:
            await write_message(stream, self._answer)
