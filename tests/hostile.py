"""For tests with hostile input: the same mutations each run, and a watch over what they break."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MIB = 1024 * 1024


class Mutator:
    """Damaged copies of real messages, without end.

    The seed decides on the damage; captured samples differ from run to run, as their keys do.
    """

    def __init__(self, seed: int, samples: Iterable[bytes]) -> None:
        self.dice = random.Random(seed)
        self.samples: Sequence[bytes] = sorted(set(samples))
        """In an order that does not depend on how they were captured."""

    def take(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield self.one()

    def one(self) -> bytes:
        dice = self.dice
        data = bytearray(dice.choice(self.samples))
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            self._damage(data)
        return bytes(data)

    def _damage(self, data: bytearray) -> None:
        dice = self.dice
        size = len(data)
        at = dice.randrange(size) if size else 0
        # Half of all damage near the front, where types, versions and lengths are.
        if dice.random() < 0.5:
            at = min(at, dice.randrange(24))
        match dice.randrange(9):
            case 0:
                del data[at:]
            case 1 if size:
                data[at] ^= 1 << dice.randrange(8)
            case 2 if size:
                data[at] = dice.choice((0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF))
            case 3 if size:
                end = min(size, at + dice.choice((2, 4, 8)))
                data[at:end] = dice.randbytes(end - at)
            case 4:
                data[at:at] = dice.randbytes(dice.choice((1, 2, 40)))
            case 5:
                data += dice.choice(self.samples)
            case 6:
                other = dice.choice(self.samples)
                data[at:] = other[dice.randrange(len(other) + 1) :]
            case 7:
                del data[at : at + dice.choice((1, 2, 4, 16))]
            case _:
                data[at : at + 4] = dice.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1"))


class Watch(logging.Handler):
    """Collects what nobody handled: exceptions of the loop, and errors in the log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.troubles: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.troubles.append(logging.Formatter().format(record))

    def on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.troubles.append(f"{context.get('message')}: {context.get('exception')!r}")


@contextmanager
def nothing_unhandled() -> Iterator[Watch]:
    """Around the attack, in the running loop; fails with whatever went unhandled."""
    watch, loop, root = Watch(), asyncio.get_running_loop(), logging.getLogger()
    before = loop.get_exception_handler()
    loop.set_exception_handler(watch.on_exception)
    root.addHandler(watch)
    try:
        yield watch
        gc.collect()  # a task nobody asked complains when it goes
        assert not watch.troubles, watch.troubles[0]
    finally:
        root.removeHandler(watch)
        loop.set_exception_handler(before)


def object_count() -> int:
    """Objects that the collector knows: the exact measure of what is kept."""
    gc.collect()
    return len(gc.get_objects())


def resident_bytes() -> int:
    """This process's own memory; 0 where /proc does not say.

    Not what the system keeps of its files, which comes and goes; nor what the allocator has free,
    which in a process that ran many tests is more than any of them takes.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than with glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    status = Path("/proc/self/status")
    said = dict(
        re.findall(r"^(\w+):\s+(\d+) kB$", status.read_text() if status.exists() else "", re.M)
    )
    return int(said.get("RssAnon", said.get("VmRSS", 0))) * 1024


def descriptor_count() -> int:
    """Open files and sockets of this process; 0 where /proc does not say."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0
