"""The stream between two members: each sends what it knows that is new, and a pulse every second.

One frame is a canonical CBOR list of signed records; an empty one is a pulse. Nothing is queued: a
link remembers what it has sent of each machine. Our own word goes out at once, that of others with
the pulses and seldom: everybody has it from the machine itself but those who do not know it yet.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from node.cluster.errors import MemberSilent
from node.cluster.membership import MACHINES_MAX, Membership
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.record import decode_canonical, encode_canonical
from transport.base import Stream

__all__ = ["PULSE_S", "SILENCE_S", "Link"]

PULSE_S: Final = 1.0
SILENCE_S: Final = 5.0
"""Five pulses missed: a machine that was switched off is out of the plan within seconds. A process
that is merely busy must not block its event loop for as long."""
SEND_TIMEOUT_S: Final = SILENCE_S
INTRODUCE_S: Final = 10.0
"""How often a member is introduced to another one anew: before its last word there has run out."""
BATCH_BYTES_MAX: Final = 1024 * 1024
"""Sixty-four records with plans of sixty-four assignments are about 400 KiB."""


class Link:
    """One member's proven stream. `run` it once; `wake` it when there is news; `close` ends it."""

    def __init__(
        self,
        stream: Stream,
        membership: Membership,
        *,
        joined_at_ms: int,
        opener: PeerId,
        on_news: Callable[[], None],
    ) -> None:
        self.peer_id = stream.peer_id
        self.joined_at_ms = joined_at_ms
        self.opener = opener
        self._stream = stream
        self._membership = membership
        self._on_news = on_news
        self._sent: dict[PeerId, tuple[int, float]] = {}
        """Of whom: the sequence, and when it was sent."""
        self._is_leaving = False
        self._wake = asyncio.Event()

    @property
    def path_kind(self) -> str:
        return str(self._stream.path_kind)

    def wake(self) -> None:
        self._wake.set()

    def close(self, code: int) -> None:
        self._stream.reset(code)

    def finish(self) -> None:
        """Say goodbye: the other end sees an orderly end, and `run` ends too."""
        self._is_leaving = True
        self._wake.set()

    async def run(self) -> None:
        """Until the peer says goodbye. Raises MemberSilent, TransportError, ProtocolError or
        VerificationError; whichever direction fails first ends both."""
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read())
        try:
            done, _ = await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.cancel()
            reader.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)
        for task in done:
            task.result()

    async def _write(self) -> None:
        while not self._is_leaving:
            self._wake.clear()
            frame = encode_canonical(self._news(asyncio.get_running_loop().time()))
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._stream.send(frame)
            except TimeoutError:
                raise self._silent("has taken nothing") from None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PULSE_S):
                    await self._wake.wait()
        self._stream.finish()

    def _news(self, now: float) -> list[bytes]:
        """The signed words that the peer is to have now."""
        own, *others = self._membership.words(self.peer_id)
        sequence, _ = self._sent.get(own.record.peer_id, (-1, now))
        news = [own] if own.record.sequence != sequence else []
        for member in others:
            sequence, sent_at = self._sent.get(member.record.peer_id, (-1, now - INTRODUCE_S))
            if member.record.sequence != sequence and now >= sent_at + INTRODUCE_S:
                news.append(member)
        known = {member.record.peer_id for member in (own, *others)}
        self._sent = {peer: sent for peer, sent in self._sent.items() if peer in known}
        self._sent |= {m.record.peer_id: (m.record.sequence, now) for m in news}
        return [member.envelope for member in news]

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    frame = await self._stream.receive()
            except TimeoutError:
                raise self._silent("has said nothing") from None
            if frame is None:
                return
            news = [
                self._membership.take(self.peer_id, envelope, loop.time())
                for envelope in _decode(frame)
            ]
            if any(news):
                self._on_news()

    def _silent(self, what: str) -> MemberSilent:
        return MemberSilent(f"Machine {self.peer_id.short} {what} for {SILENCE_S:.0f} s.")


def _decode(frame: bytes) -> list[bytes]:
    envelopes = decode_canonical(frame, size_max=BATCH_BYTES_MAX)
    if not isinstance(envelopes, list) or len(envelopes) > MACHINES_MAX:
        raise RemoteProtocolError(f"A member sends a list of at most {MACHINES_MAX} records.")
    if not all(isinstance(envelope, bytes) for envelope in envelopes):
        raise RemoteProtocolError("A member's records are byte strings.")
    return envelopes
