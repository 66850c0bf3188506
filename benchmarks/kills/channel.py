"""Lines of JSON between the harness and its processes, over a Unix socket."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["Channel", "Message", "connect", "listen"]

Message = dict[str, Any]

LINE_BYTES_MAX: Final = 8 * 2**20
"""A line holds a whole answer's times, or a list of announcements."""


class Channel:
    """One process's line. `ask` answers come back with the asker's number."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._number = 0

    def send(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def ask(self, message: Message, *, timeout_s: float) -> Message:
        """The answer to a message; raises TimeoutError, or ConnectionError when it cannot come."""
        number = self._number = self._number + 1
        future = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self.send(message | {"number": number})
        try:
            return await asyncio.wait_for(future, timeout_s)
        finally:
            del self._asked[number]

    async def messages(self) -> AsyncIterator[Message]:
        """Every message but answers, until the other side ends."""
        with contextlib.suppress(ConnectionError):
            while line := await self._reader.readline():
                message: Message = json.loads(line)
                if "answer_to" not in message:
                    yield message
                elif (future := self._asked.get(message["answer_to"])) and not future.done():
                    future.set_result(message)
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionError("the process is gone"))

    def close(self) -> None:
        self._writer.close()


async def connect(path: Path) -> Channel:
    return Channel(*await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX))


async def listen(path: Path, take: Callable[[Channel], Any]) -> asyncio.Server:
    """`take` runs with the channel of every process that connects, in a task of its own."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        try:
            await take(channel)
        finally:
            channel.close()

    return await asyncio.start_unix_server(accept, path, limit=LINE_BYTES_MAX)
