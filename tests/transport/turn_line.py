"""A TCP line that carries in turns, so that round trips can be counted whatever the machine does.

What one side sends is held until it has been quiet for a while, then delivered at once; then it is
the other side's turn. `round_trips` counts deliveries from the dialler that were followed by one
to it.
"""

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress

QUIET_S = 0.1
"""Much longer than an honest end takes to say all that it can say."""


class TurnLine:
    def __init__(self, target_port):
        self.target_port = target_port
        self.port = 0
        self.flights = []
        """The sizes of what was delivered: positive to the listener, negative to the dialler."""

    @property
    def round_trips(self):
        there = [size > 0 for size in self.flights]
        return sum(1 for one, next_one in itertools.pairwise(there) if one > next_one)

    async def carry(self, near_reader, near_writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        inbox = asyncio.Queue()
        pumps = [
            asyncio.create_task(pump(near_reader, inbox, 1)),
            asyncio.create_task(pump(far_reader, inbox, -1)),
        ]
        held = {1: b"", -1: b""}
        turn, is_over = 1, False
        try:
            while not is_over or any(held.values()):
                with suppress(TimeoutError):
                    async with asyncio.timeout(QUIET_S if any(held.values()) else None):
                        direction, data = await inbox.get()
                        held[direction] += data
                        is_over = is_over or not data
                        continue
                turn = turn if held[turn] else -turn
                (far_writer if turn > 0 else near_writer).write(held[turn])
                self.flights.append(turn * len(held[turn]))
                held[turn] = b""
                turn = -turn
        finally:
            for each in pumps:
                each.cancel()
            near_writer.close()
            far_writer.close()


async def pump(reader, inbox, direction):
    data = b"x"
    while data:
        try:
            data = await reader.read(65536)
        except ConnectionError:
            data = b""
        inbox.put_nowait((direction, data))


@asynccontextmanager
async def turn_line(target_port):
    line, tasks = TurnLine(target_port), set()

    async def accept(reader, writer):
        task = asyncio.current_task()
        tasks.add(task)
        await line.carry(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
